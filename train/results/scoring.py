"""Say whether an answer is right: it holds an accepted string, or equals after the usual VQA normalisation."""

import re
from collections.abc import Sequence

# The rules of the VQA evaluation code: vqaEval.py in https://github.com/GT-Vision-Lab/VQA.
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
NUMBERS = "zero one two three four five six seven eight nine ten".split()
WORDS = {"none": "0", **{word: str(number) for number, word in enumerate(NUMBERS)}}
ARTICLES = {"a", "an", "the"}


def normalise(answer: str) -> str:
    """Return an answer in the VQA evaluation's form: lower case, digits for number words, no articles or punctuation.

    A mark next to a blank goes, any other becomes a blank; points between digits stay. The original writes
    "dont" as "don't" from a table of contractions; leaving out every apostrophe makes the same answers equal.
    """
    given = text = " ".join(answer.split())
    has_long_number = re.search(r"\d,\d", given)  # 10,000
    for mark in PUNCTUATION:
        beside_blank = f"{mark} " in given or f" {mark}" in given
        text = text.replace(mark, "" if beside_blank or has_long_number else " ")
    text = re.sub(r"\.(?!\d)|['’]", "", text).lower()
    words = (WORDS.get(word, word) for word in text.split())
    return " ".join(word for word in words if word not in ARTICLES)


def is_correct(predicted: str, expected: str, accept: Sequence[str] | None = None) -> bool:
    """Return whether `predicted` holds one of `accept` as whole words, case folded; without it, whether it equals
    `expected`."""
    if accept:
        text = " ".join(predicted.casefold().split())
        return any(_holds(text, " ".join(words.casefold().split())) for words in accept)
    return normalise(predicted) == normalise(expected)


def _holds(text: str, words: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text) is not None
