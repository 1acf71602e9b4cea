// Draws every chart of the page, and again when the reader changes between light and dark.
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const specs = read("chart-specs");
const configs = read("chart-configs");
const darkness = matchMedia("(prefers-color-scheme: dark)");
const drawn = new Map();

async function draw(place) {
  const mode = darkness.matches ? "dark" : "light";
  const spec = structuredClone(specs[place.dataset.chart]);
  spec.params.find((param) => param.name === "dark").value = darkness.matches;
  drawn.get(place)?.finalize();
  const made = await vegaEmbed(place, spec, {
    config: configs[mode],
    tooltip: { theme: mode },
    renderer: "svg",
    actions: { export: { png: true, svg: true }, source: false, compiled: false, editor: false },
    downloadFileName: spec.description.split(".")[0],
  });
  drawn.set(place, made);
}

function fail(place, error) {
  place.textContent = `This chart could not be drawn: ${error.message}`;
  console.error(error);
}

async function drawAll() {
  const places = [...document.querySelectorAll("[data-chart]")];
  await Promise.all(places.map((place) => draw(place).catch((error) => fail(place, error))));
  document.documentElement.dataset.drawn = places.length;
}

darkness.addEventListener("change", drawAll);
drawAll();
