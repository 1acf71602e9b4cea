"""How well a CLIP of the made pictures names what is in them, untrained for the question."""

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import CLIPModel, PreTrainedTokenizerFast

from clip_towers import embed_pictures, embed_texts
from residuum.prompts.scenes import Pictures, World

CHUNK = 500


def prompts(world: World, label: str) -> dict[str, str]:
    """A label's words, and the text that stands for each."""
    if label == "shape":
        return {word: f"a {word}" for word in world.shapes}
    if label == "colour":
        return {word: f"a {word} thing" for word in world.colours}
    if label == "background":
        return {word: f"a thing on {word}" for word in world.backgrounds}
    return {word: f"a thing at the {word}" for word in world.positions}


@torch.no_grad()
def embedded(model: CLIPModel, pictures: Pictures) -> torch.Tensor:
    """Unit vectors of all pictures. [example, d_embed]."""
    starts = range(0, len(pictures), CHUNK)
    return torch.cat([embed_pictures(model, pictures.pixels[i : i + CHUNK]) for i in starts])


@torch.no_grad()
def right(
    model: CLIPModel,
    reader: PreTrainedTokenizerFast,
    pictures: Pictures,
    label: str,
    vectors: torch.Tensor,
) -> NDArray[np.bool_]:
    """Whether the text nearest to a picture's vector [example, d_embed] names it. [example]."""
    texts = prompts(pictures.world, label)
    nearest = (vectors @ embed_texts(model, reader, list(texts.values())).T).argmax(1)
    hit: NDArray[np.bool_] = np.array(list(texts))[nearest.numpy()] == pictures.labels[label]
    return hit


def accuracies(
    model: CLIPModel, reader: PreTrainedTokenizerFast, pictures: Pictures
) -> dict[str, float]:
    """Share of right names for each label that is a word."""
    vectors = embedded(model, pictures)
    words = [name for name in pictures.labels if name != "alpha"]
    return {name: share(right(model, reader, pictures, name, vectors)) for name in words}


def by_group(
    model: CLIPModel, reader: PreTrainedTokenizerFast, pictures: Pictures
) -> dict[str, float]:
    """Accuracy of the shape in each pair of shape and background, and what follows from them.

    `aligned` and `conflict` are the means of the pairs that are each other's favourites and of the
    others, `balanced` the mean of all, `worst` the least.
    """
    hit = right(model, reader, pictures, "shape", embedded(model, pictures))
    world, groups, friends = pictures.world, {}, {}
    for shape in world.shapes:
        for background in world.backgrounds:
            of = (pictures.labels["shape"] == shape) & (pictures.labels["background"] == background)
            name = f"{shape} on {background}"
            groups[name], friends[name] = share(hit[of]), world.favourite[shape] == background
    return {
        **groups,
        "aligned": mean([value for name, value in groups.items() if friends[name]]),
        "conflict": mean([value for name, value in groups.items() if not friends[name]]),
        "balanced": mean(list(groups.values())),
        "worst": min(groups.values()),
    }


def share(hit: NDArray[np.bool_]) -> float:
    """Share of true values, to four digits."""
    return round(float(hit.mean()), 4)


def mean(values: list[float]) -> float:
    """Mean of shares, to four digits."""
    return round(sum(values) / len(values), 4)
