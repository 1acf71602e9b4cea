"""Sections of the CLIP decomposition.

clip_effect.py   direct effects of components, sets of them ablated
clip_heads.py    what heads say: texts and images; how complete the texts are
clip_repair.py   what should not matter, removed
clip_images.py   images alike in one property
clip_patches.py  heat maps on images, objects found by them
"""

from residuum.analyses.result import Result
from residuum.report import clip_effect, clip_heads, clip_images, clip_patches, clip_repair
from residuum.report.sections import Section, scroll

PARTS = (clip_effect, clip_heads, clip_repair, clip_images, clip_patches)


def sections(result: Result) -> list[Section]:
    """What there is of the parts, and why the others are not there."""
    made = [section for part in PARTS for section in part.sections(result)]
    skipped = result["skipped"]
    if skipped.num_rows:
        text = "Parts that the store, the texts or the parameters do not allow, and why."
        made.append(Section("Left out", text, html=scroll(skipped, skipped.num_rows)))
    if not made:
        made.append(Section("Nothing to show", "No part was asked for that has a picture."))
    return made
