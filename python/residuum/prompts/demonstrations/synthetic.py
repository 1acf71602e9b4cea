"""Sets that need no file: `unnatural`, on which heads are chosen, and letters as labels."""

from dataclasses import replace

from residuum.prompts.demonstrations.dataset import Dataset, Item, Template

VEGETABLES = (
    "carrot potato onion cabbage spinach broccoli leek turnip radish celery lettuce pumpkin garlic "
    "beetroot parsnip kale asparagus artichoke cucumber zucchini eggplant cauliflower fennel chard "
    "shallot rutabaga endive okra arugula squash"
)
SPORTS = (
    "tennis football rowing hockey boxing cricket rugby fencing judo archery golf swimming cycling "
    "basketball volleyball badminton skiing surfing wrestling sailing karate baseball gymnastics "
    "handball triathlon curling bowling polo lacrosse snooker"
)
ANIMALS = (
    "horse tiger otter rabbit donkey eagle salmon beaver camel giraffe lizard monkey penguin "
    "squirrel walrus badger cheetah dolphin elephant falcon gorilla hamster jaguar kangaroo "
    "leopard moose ostrich panther raccoon zebra"
)
GOOD = (
    "wonderful brilliant delightful superb charming moving excellent gripping lovely clever "
    "splendid touching joyful graceful witty inspiring fresh stunning tender perfect remarkable "
    "thrilling elegant masterly warm vivid honest magical generous satisfying"
)
BAD = (
    "dreadful boring awful clumsy tedious horrible dull lifeless ugly stupid miserable shallow "
    "annoying messy bland pointless stale painful cold terrible forgettable tiresome crude "
    "sloppy hollow vulgar false wretched stingy disappointing"
)


def unnatural() -> Dataset:
    """Words of three categories, 30 each: `carrot: vegetable.` The lists are ours."""
    template = Template("word", "{text}: ", ("vegetable", "sport", "animal"), separator="\n")
    return Dataset("unnatural", _items(VEGETABLES, SPORTS, ANIMALS), (template,))


def letters() -> Dataset:
    """Good and bad films, whose labels are letters that say nothing of it by themselves."""
    template = Template("letters", "Review: a {text} film\nAnswer: ", ("A", "B"))
    return Dataset("letters", _items(BAD, GOOD), (template,))


def with_letters(dataset: Dataset) -> Dataset:
    """A data set whose classes are called A, B, …: SST-2 gives the paper's SST-2-AB."""
    names = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: dataset.n_class])
    templates = tuple(replace(template, labels=names) for template in dataset.templates)
    return replace(dataset, name=f"{dataset.name}-{names[0]}{names[-1]}", templates=templates)


def _items(*lists: str) -> tuple[Item, ...]:
    return tuple(
        Item({"text": word}, label) for label, words in enumerate(lists) for word in words.split()
    )
