"""Recipes and tests are on the path of imports: none may stand in a package's way."""

import re
import tomllib
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).parents[2]


def packages() -> set[str]:
    """What may be installed beside us, as it is imported: mostly its name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lists = [
        project["project"]["dependencies"],
        *project["project"]["optional-dependencies"].values(),
        *project["dependency-groups"].values(),
    ]
    names = (re.match(r"[\w-]+", line).group() for line in chain(*lists))
    return {name.replace("-", "_") for name in names}


def test_no_recipe_hides_a_package() -> None:
    assert "tuned_lens" in packages()
    ours = {path.stem for folder in ("pipelines", "tests") for path in (ROOT / folder).iterdir()}
    assert not ours & packages()
