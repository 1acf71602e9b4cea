"""What the biographies and reviews are made of."""

from residuum.prompts.binding.words import words

OCCUPATIONS = words(
    """
    accountant actor architect artist baker barber butcher carpenter chef comedian composer dancer
    dentist designer detective doctor driver electrician engineer farmer firefighter fisherman
    gardener historian journalist judge lawyer librarian mechanic miner musician nurse painter
    philosopher photographer physician pilot plumber poet professor psychologist sailor scientist
    sculptor secretary singer soldier surgeon tailor teacher translator waiter writer
    """
)

OPENINGS = (
    "After school he moved away from home and trained for some years to be",
    "Many people in town know him and trust him as",
    "For most of his life he has earned his living as",
    "His parents had other plans, but at twenty he began to work as",
    "The local paper wrote about him last year, because he is",
    "He came here as a young man and found a position as",
)
"""Sentences that end where the occupation comes; `{article}` stands before it."""

CLOSINGS = (
    "He is married and has two children.",
    "On Sundays he likes to walk along the river.",
    "He still answers every letter by hand.",
    "His neighbours say that he is never late.",
    "He hopes to go on for another ten years.",
    "In winter he reads a great deal.",
)

GOOD = (
    "I laughed all the way through and would gladly see it again.",
    "The acting is superb and the story touched me.",
    "A warm and clever film that I can recommend to everyone.",
    "Beautiful pictures, wonderful music, not a dull minute.",
    "One of the best evenings I have had in a cinema.",
    "The dialogue sparkles and the ending is perfect.",
    "My whole family loved it.",
    "It is brave, funny and very well made.",
    "The young lead is a delight to watch.",
    "I left the theatre happy.",
)

BAD = (
    "I was bored after ten minutes and looked at my watch.",
    "The acting is wooden and the story makes no sense.",
    "A cold and lazy film that I would not wish on anyone.",
    "Ugly pictures, loud music, two hours of my life gone.",
    "One of the worst evenings I have had in a cinema.",
    "The dialogue is dreadful and the ending is a mess.",
    "My whole family hated it.",
    "It is dull, long and badly made.",
    "The lead seems to be asleep.",
    "I left the theatre angry.",
)
