"""What can be asked of a CLIP vision tower."""

from dataclasses import dataclass
from typing import get_args

from residuum.analyses.params import param
from residuum.clip.effects import Convention
from residuum.errors import ArgumentError

EXPERIMENTS = (
    "exactness",
    "effect",
    "ablation",
    "textspan",
    "textspan_accuracy",
    "top_images",
    "repair",
    "retrieval",
    "heatmap",
    "segment",
    "pictures",
)

TABLES = {"repair": ("groups", "repair"), "retrieval": ("retrieval", "similar")}
"""The tables of parts that have others than one of their own name."""
NEEDS = {
    "ablation": ("classes", "label"),
    "textspan": ("texts",),
    "textspan_accuracy": ("texts", "classes", "label"),
    "top_images": ("texts",),
    "repair": ("classes", "label", "group"),
    "retrieval": ("properties",),
    "heatmap": ("classes",),
    "segment": ("masks",),
}
"""What parts cannot do without."""


@dataclass(frozen=True)
class Params:
    """Texts, classes and groups; which parts; how many of what."""

    texts: str | None = param(
        None, "store of a pool of texts (text tower, site pooled) that heads are named by"
    )
    classes: str | None = param(
        None,
        "store of class prompts (text tower, site pooled); its column `class` says which prompts "
        "are of one class, without it each text is a class",
    )
    label: str | None = param(None, "column of the images that names their class")
    group: str | None = param(
        None, "column of the images that should not matter, such as their background"
    )
    cues: tuple[str, ...] = param(
        (), "texts of `texts` or `classes` that name the values of `group`, to find its heads"
    )
    experiments: tuple[str, ...] | None = param(
        None,
        "parts to do: "
        + ", ".join(EXPERIMENTS)
        + "; none is all that there can be, the others stand in the table `skipped`",
    )
    layers: tuple[int, ...] | None = param(None, "layers of TextSpan; none is the last four")
    n_text: int = param(20, "texts of a head", least=1)
    rank: int | None = param(
        None, "leading directions of a head that texts are compared in; none is all", least=1
    )
    convention: str = param(
        "folded",
        "folded centres every component; even_split shares biases out as the paper's code does",
    )
    unit: bool = param(default=False, meaning="shares of the unit vector, not of the vector")
    remove: str | None = param(
        None,
        "query with columns layer and head, such as SELECT layer, head FROM "
        "clip_decomposition_textspan WHERE rank = 0 AND text ILIKE '%grass%': heads to ablate",
    )
    n_remove: int = param(8, "heads that the ranking by texts ablates", least=1)
    greedy: int = param(0, "heads that a greedy search by labels ablates beside it", least=0)
    random_draws: int = param(20, "draws of as many heads, the control", least=0)
    calibration: float = param(
        0.5, "share of images for means, ranking and search; the others are judged", least=0
    )
    properties: tuple[str, ...] = param(
        (), "columns of the images, such as colour: which head finds images that agree in it"
    )
    neighbours: int = param(5, "nearest images that are compared", least=1)
    queries: int = param(400, "images whose neighbours are looked up", least=1)
    top: int = param(8, "images of a head and text", least=1)
    masks: str | None = param(
        None,
        "file .npy, bool [example, height, width] in the frame that the model saw (residuum.clip."
        "aligned makes such masks): what of each image is its object",
    )
    mask_text: str | None = param(
        None,
        "column of the images with the text to look for; none is the class that the model says",
    )
    map_examples: int = param(4, "images whose heat maps are kept", least=0)
    images: str | None = param(
        None, "folder that the images' paths start from, for small copies; the current one if none"
    )
    seed: int = param(0, "of the halves and of random draws", least=0)
    memory: str = param("1GB", "for shares that are in memory at once")
    fingerprint: str | None = param(
        None, "of texts, classes and masks, filled in so that a result is known by their content"
    )

    @property
    def unasked(self) -> frozenset[str]:
        """Tables that stay empty as what they need was not named, or they were not asked for."""
        left = {part for part, names in NEEDS.items() if not all(getattr(self, n) for n in names)}
        if self.experiments is not None:
            left |= {"skipped", *EXPERIMENTS} - set(self.experiments)
        return frozenset(table for part in left for table in TABLES.get(part, (part,)))

    def check(self) -> None:
        """Refuse parts and settings that mean nothing.

        Raises:
            ArgumentError: says which.
        """
        unknown = [name for name in self.experiments or () if name not in EXPERIMENTS]
        if unknown:
            message = f"there is no part {unknown[0]!r}; there are: {', '.join(EXPERIMENTS)}"
            raise ArgumentError(message)
        if self.convention not in get_args(Convention):
            message = f"convention is folded or even_split, not {self.convention!r}"
            raise ArgumentError(message)
        if len(self.cues) == 1:
            message = f"cues are two texts at least, not {self.cues[0]!r} alone"
            raise ArgumentError(message)
        if not 0 < self.calibration < 1:
            message = f"calibration is a share between 0 and 1, not {self.calibration}"
            raise ArgumentError(message)
