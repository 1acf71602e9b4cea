"""Prompts of Binding IDs: contexts of entities with attributes, and questions about one of them.

    task ──fitted(tokenizer)──▶ task with usable words ──rows(n_entities)──▶ rows ──▶ JSON lines

The structure of the tasks follows Feng and Steinhardt (arXiv 2310.17191); words and wording are
our own. A tokenizer is passed as a function, so that nothing here knows a model:

    tokenise(text) -> [(token id, first character, character after the last), ...]

`places`, `things` and `options` hold the seven tasks in English, `worlds` those of tiny models.
"""

from residuum.prompts.binding.draft import Draft
from residuum.prompts.binding.fit import Tokenise, fitted
from residuum.prompts.binding.options import rows as option_rows
from residuum.prompts.binding.places import CAPITALS, ONEHOP, PARALLEL
from residuum.prompts.binding.rows import rows
from residuum.prompts.binding.task import Item, Task
from residuum.prompts.binding.things import BIOS, FRUITS, SHAPES
from residuum.prompts.binding.worlds import WORLDS, vocabulary, world

TASKS = {task.name: task for task in (CAPITALS, PARALLEL, SHAPES, FRUITS, BIOS, ONEHOP)}
"""The tasks that `rows` makes prompts of; `option_rows` makes those of MCQ."""

__all__ = [
    "TASKS",
    "WORLDS",
    "Draft",
    "Item",
    "Task",
    "Tokenise",
    "fitted",
    "option_rows",
    "rows",
    "vocabulary",
    "world",
]
