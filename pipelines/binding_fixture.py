"""Two readers made by hand, one that binds by ID and one that binds directly.

They know no weights: a context token holds the direction of its word and that of its slot's ID (or,
in an attribute of the direct reader, of its entity), plus noise, and a query is answered by two
look-ups. So it is known what every experiment of `binding_ids` must show.

    python pipelines/binding_fixture.py
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from residuum.analyses.binding_ids import deltas, means, position, swaps
from residuum.analyses.binding_ids.changes import changed
from residuum.analyses.binding_ids.prompts import ATTRIBUTE, ENTITY, Prompts
from residuum.analyses.binding_ids.subject import Intervention, Scores

D_MODEL, N_WORD, N_ID, N_SLOT = 64, 20, 8, 2
NOISE, SHARPNESS = 0.05, 30.0
N_PROMPT, SEED = 400, 0

Kind = Literal["id", "direct"]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class HandMade:
    """A subject of known mechanism, with one layer.

    Attributes:
        kind: `id` or `direct`.
        entities, attributes, ids: directions, orthonormal, `[word, d_model]`.
        context: what tokens hold, `[example, token, d_model]`; entities first, then attributes.
        asked: the entity that each example asks about, `[example]`.
    """

    kind: Kind
    entities: Floats
    attributes: Floats
    ids: Floats
    context: Floats
    asked: NDArray[np.int64]
    rotary: bool = False

    def values(self, example: NDArray[np.int64], token: NDArray[np.int64]) -> Floats:
        """What tokens hold, `[row, 1, d_model]`."""
        return self.context[example, token][:, None]

    def scores(
        self,
        prompts: Prompts,
        candidates: NDArray[np.int64],
        interventions: Sequence[Intervention],
    ) -> Scores:
        """Answer every prompt under every intervention."""
        logprob = np.empty((len(interventions), *candidates.shape))
        top = np.empty((len(interventions), len(prompts)), np.int64)
        for i, changes in enumerate(interventions):
            tokens, values = changed(self, prompts.example, changes, np.arange(len(prompts)))
            held = self.context[prompts.example]
            held[np.arange(len(held))[:, None], tokens] = values[:, :, 0]
            said = self.answers(held, self.entities[self.asked[prompts.example]])
            logprob[i] = np.take_along_axis(said, candidates, 1)
            top[i] = said.argmax(1)
        return Scores(logprob, top)

    def answers(self, held: Floats, query: Floats) -> Floats:
        """Log-probs of all attributes, `[prompt, word]`, from contexts and queried directions."""
        entities, attributes = held[:, :N_SLOT], held[:, N_SLOT:]
        if self.kind == "id":
            # First look-up: the entity by its word. What is read there is the ID.
            found = looked_up(entities, query, entities)
            query = (found @ self.ids.T) @ self.ids
        read = looked_up(attributes, query, attributes)
        logits = SHARPNESS * read @ self.attributes.T
        return np.asarray(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))


def looked_up(keys: Floats, query: Floats, values: Floats) -> Floats:
    """Attention: `[prompt, token, d]`, `[prompt, d]` and `[prompt, token, d]` to `[prompt, d]`."""
    scores = SHARPNESS * np.einsum("ptd,pd->pt", keys, query)
    pattern = np.exp(scores - scores.max(1, keepdims=True))
    pattern /= pattern.sum(1, keepdims=True)
    return np.asarray(np.einsum("pt,ptd->pd", pattern, values))


def made(kind: Kind, n_prompt: int = N_PROMPT, seed: int = SEED) -> tuple[HandMade, Prompts]:
    """A reader and its prompts: contexts default, rotated and disjoint of each prompt id."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((D_MODEL, D_MODEL)))[0]
    entities, attributes, ids = np.split(basis[: 2 * N_WORD + N_ID], [N_WORD, 2 * N_WORD])
    rows = []
    for split, prompt_id in ((s, p) for s in ("train", "test") for p in range(n_prompt)):
        words = np.stack([rng.permutation(N_WORD)[: 2 * N_SLOT] for _ in range(2)])
        default = np.arange(N_SLOT)
        wanted = [("default", default, query) for query in range(2 * N_SLOT)]
        wanted += [("rotated", np.roll(default, -1), 0), ("disjoint", default + N_SLOT, N_SLOT)]
        rows += [(split, prompt_id, words, *one) for one in wanted]
    order = np.array([row[4] for row in rows])
    word = np.array([row[2] for row in rows])  # [example, category, item]
    held_by = np.take_along_axis(word, order[:, None], 2)
    own, slot_ids = entities[held_by[:, 0]], np.broadcast_to(ids[:N_SLOT], (len(rows), N_SLOT, 64))
    attribute = attributes[held_by[:, 1]] + (own if kind == "direct" else slot_ids)
    entity = own if kind == "direct" else own + slot_ids
    context = np.concatenate([entity, attribute], 1)
    context += NOISE * rng.standard_normal(context.shape)
    query = np.array([row[5] for row in rows])
    asked = word[np.arange(len(rows)), 0, query]
    slots = np.broadcast_to(np.arange(N_SLOT), (len(rows), N_SLOT))
    prompts = Prompts(
        task=kind,
        n=N_SLOT,
        seed=seed,
        widths={ENTITY: 1, ATTRIBUTE: 1},
        partner=np.arange(N_SLOT),
        example=np.arange(len(rows)),
        prompt_id=np.array([row[1] for row in rows]),
        query=query,
        rotation=np.array([row[4][0] % N_SLOT for row in rows]),
        split=np.array([row[0] for row in rows]),
        context=np.array([row[3] for row in rows]),
        entity=slots,
        attribute=slots + N_SLOT,
        option=np.full_like(slots, -1),
        ctx_end=np.full(len(rows), 2 * N_SLOT),
        n_token=np.full(len(rows), 2 * N_SLOT + 1),
        answers=word[:, 1],
    )
    return HandMade(kind, entities, attributes, ids, context, asked), prompts


def table(kind: Kind) -> dict[str, list[float]]:
    """What the experiments find, by the name of a row."""
    subject, prompts = made(kind)
    _, expected = swaps.factorizability(subject, prompts)
    found: dict[str, list[float]] = {}
    for entity, attr, name in (
        (False, False, "swap none"),
        (False, True, "swap attribute"),
        (True, False, "swap entity"),
        (True, True, "swap both"),
    ):
        found[name] = [
            row["accuracy"]
            for row in expected
            if (row["swap_entity"], row["swap_attr"], row["removed"]) == (entity, attr, False)
            and row["slot"] == row["side"] == 0
        ]
    shift = deltas.estimate(subject, prompts)
    found["norm of the difference, entity and attribute"] = [
        float(np.linalg.norm(shift.by[category][1])) for category in (ENTITY, ATTRIBUTE)
    ]
    rows, _ = means.mean_intervention(subject, prompts, shift, seeds=[0], promote=False)
    for delta in ("mean", "random"):
        for query in (0, 1):
            found[f"{delta} none, attribute, entity, both (query {query})"] = [
                row["accuracy"] for row in rows if (row["delta"], row["query"]) == (delta, query)
            ]
    moved = position.by_columns(subject, prompts)
    found["columns exchanged"] = [
        row["chosen"]
        for row in moved
        if row["is_right"] and row["category"] == "both" and row["offset"]
    ]
    return found


def main() -> None:
    """Both readers side by side."""
    by_id, direct = table("id"), table("direct")
    print(f"{'':52}  {'binds by ID':25} binds directly")
    for name, numbers in by_id.items():
        both = (" ".join(f"{x:.3f}" for x in one) for one in (numbers, direct[name]))
        print(f"{name:52}  {next(both):25} {next(both)}")


if __name__ == "__main__":
    main()
