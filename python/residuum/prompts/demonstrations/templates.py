"""Templates of the 14 real data sets of the paper, in our words; the texts are yours to load.

`TEMPLATES[name]` are the formats of a set; its fields and the order of its classes:

    sst2                     text                     negative, positive
    agnews                   text                     World, Sports, Business, Technology
    trec                     text                     abbreviation, entity, description, person,
                                                      location, number
    dbpedia                  text                     the 14 kinds, in the order of its numbers
    rte                      premise, hypothesis      yes (it follows), no
    mrpc                     first, second            no, yes (the same meaning)
    tweet_hate               text                     no, yes
    sick                     premise, hypothesis      yes, unclear, no (they contradict)
    poem_sentiment           text                     negative, positive, neutral
    ethos                    text                     no, yes
    financial_phrasebank     text                     negative, neutral, positive
    medical_questions_pairs  first, second            no, yes (the same question)
    tweet_stance_feminist    text                     none, against, favor
    tweet_stance_atheism     text                     none, against, favor
"""

from collections.abc import Mapping
from types import MappingProxyType

from residuum.prompts.demonstrations.dataset import Template

_PAIR = ("no", "yes")
_STANCE = ("none", "against", "favor")
_SENTIMENT = ("negative", "positive")

_SST2 = (
    Template("review_sentiment", "Review: {text}\nSentiment: ", _SENTIMENT),
    Template("review_answer", "Review: {text}\nAnswer: ", _SENTIMENT),
    Template("text_good", "Text: {text}\nVerdict: ", ("bad", "good")),
    Template("capital", "Review: {text}\nSentiment: ", ("Negative", "Positive")),
    Template("input_output", "Input: {text}\nOutput: ", _SENTIMENT),
    Template(
        "question",
        "{text}\nQuestion: is the writer pleased with the film?\nAnswer: ",
        ("No", "Yes"),
    ),
    Template("pleased", "{text}\nDid the writer like it? ", ("no", "yes")),
    Template("my_opinion", "My opinion of the film: {text}\nIn one word, it was ", ("bad", "good")),
    Template(
        "stars",
        "Someone wrote: {text}\nThe number of stars they gave, one or five, was ",
        ("one", "five"),
    ),
    Template(
        "instruction",
        "Sentence: {text}\nLabel: ",
        _SENTIMENT,
        instruction="Say for each sentence about a film whether its sentiment is negative or "
        "positive.",
    ),
    Template(
        "instruction_like",
        "Comment: {text}\nLiked: ",
        ("no", "yes"),
        instruction="These are comments of people who saw a film, with a note whether they liked "
        "it.",
    ),
    Template("quoted", 'The critic said: "{text}" That is ', _SENTIMENT),
    Template("arrow", "{text} -> ", _SENTIMENT, separator="\n"),
    Template("mood", "Review: {text}\nMood of the writer: ", ("unhappy", "happy")),
    Template("recommend", "Review: {text}\nWould they go again? ", ("never", "always")),
)

TEMPLATES: Mapping[str, tuple[Template, ...]] = MappingProxyType(
    {
        "sst2": _SST2,
        "agnews": (
            Template(
                "topic", "Article: {text}\nTopic: ", ("World", "Sports", "Business", "Technology")
            ),
        ),
        "trec": (
            Template(
                "asks_for",
                "Question: {text}\nIt asks for: ",
                ("abbreviation", "entity", "description", "person", "location", "number"),
            ),
        ),
        "dbpedia": (
            Template(
                "kind",
                "Article: {text}\nIt is about: ",
                (
                    "company",
                    "school",
                    "artist",
                    "athlete",
                    "politics",
                    "transportation",
                    "building",
                    "nature",
                    "village",
                    "animal",
                    "plant",
                    "album",
                    "film",
                    "book",
                ),
            ),
        ),
        "rte": (
            Template(
                "follows",
                "Premise: {premise}\nHypothesis: {hypothesis}\nDoes it follow? ",
                ("yes", "no"),
            ),
        ),
        "mrpc": (Template("same", "One: {first}\nTwo: {second}\nSame meaning? ", _PAIR),),
        "tweet_hate": (Template("hateful", "Tweet: {text}\nHateful? ", _PAIR),),
        "sick": (
            Template(
                "follows",
                "Premise: {premise}\nHypothesis: {hypothesis}\nDoes it follow? ",
                ("yes", "unclear", "no"),
            ),
        ),
        "poem_sentiment": (
            Template("verse", "Verse: {text}\nFeeling: ", ("negative", "positive", "neutral")),
        ),
        "ethos": (Template("hateful", "Comment: {text}\nHateful? ", _PAIR),),
        "financial_phrasebank": (
            Template("news", "News: {text}\nSentiment: ", ("negative", "neutral", "positive")),
        ),
        "medical_questions_pairs": (
            Template("same", "One: {first}\nTwo: {second}\nSame question? ", _PAIR),
        ),
        "tweet_stance_feminist": (
            Template("stance", "Tweet: {text}\nStance on feminism: ", _STANCE),
        ),
        "tweet_stance_atheism": (
            Template("stance", "Tweet: {text}\nStance on atheism: ", _STANCE),
        ),
    }
)
