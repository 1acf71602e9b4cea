"""B8, multiple choice: is an option bound directly, by what the end of its line holds?

The last w tokens of each option line, the line break included, come from the prompt with the
options exchanged. Where the exchanged answer appears as soon as the line break is swapped, the line
break holds which option it closes: direct binding, and no ID.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.analyses.binding_ids.calibration import chosen, medians, share
from residuum.analyses.binding_ids.subject import Put

if TYPE_CHECKING:
    from residuum.analyses.binding_ids.prompts import Prompts
    from residuum.analyses.binding_ids.subject import Intervention, Subject


def mcq_width(subject: Subject, prompts: Prompts, widths: int) -> list[dict[str, Any]]:
    """Rows of the table `mcq_width`, w from 0 to `widths`.

    Raises:
        Unsuited: a prompt has no exchanged context.
    """
    asked, others = prompts.of("test", "default"), prompts.of("test", "exchanged")
    donor = asked.partners(others)
    right = others.query[donor]
    longest = min(widths, int((asked.option - asked.entity).min()))
    interventions: list[Intervention] = [()]
    for width in range(1, longest + 1):
        back = np.arange(-width, 0)
        interventions.append(
            tuple(
                Put(
                    asked.option[:, slot, None] + back,
                    others.example[donor],
                    others.option[donor, slot, None] + back,
                )
                for slot in range(prompts.n)
            )
        )
    scores = subject.scores(asked, asked.answers, interventions)
    rows = []
    for width, logprob in enumerate(scores.logprob):
        shift = medians(logprob)
        top = asked.answers[np.arange(len(asked)), right] == scores.top[width]
        rows.append(
            {
                "width": width,
                "accuracy": share(chosen(logprob) == right),
                "cal_accuracy": share(chosen(logprob, shift) == right),
                "raw_accuracy": share(top),
                "n": len(asked),
            }
        )
    return rows
