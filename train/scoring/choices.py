"""The option that an answer chooses, or none: read strictly, so that a guess of ours is never the model's."""

import re
from collections.abc import Sequence
from string import ascii_uppercase

from train.scoring.accepted import normalise

# "A. a cat", "(A) a cat", "A) a cat", "A: a cat"; and TempCompass's "Caption A: a cat", "Option 1: a cat".
LABELLED = re.compile(r"(?:(?P<noun>[A-Z][a-z]+)\s+)?\(?(?P<label>[A-Z]|[1-9])[.):]\)?\s+(?P<text>\S.*)", re.DOTALL)
# What may stand before the option: the phrases that Video-MME's evaluation takes away, and "Answer:".
LEAD = re.compile(r"(?:the )?(?:best |correct |right )?(?:answer|option|choice)(?: is)?\s*:?\s*", re.IGNORECASE)
END_OF_SEQUENCE = "</s>"


def labelled(choices: Sequence[str]) -> tuple[str, list[tuple[str, str]]]:
    """Return what options are called ("Caption", or "") and the (label, text) of each.

    The labels are the options' own where all have one and no two the same; otherwise A, B, C ... in their order.
    """
    found = [LABELLED.fullmatch(choice.strip()) for choice in choices]
    own = [(match["label"], match["text"].strip()) for match in found if match]
    nouns = {match["noun"] or "" for match in found if match}
    if len({label for label, _ in own}) == len(choices) and len(nouns) == 1:
        return nouns.pop(), own
    return "", [(ascii_uppercase[number], choice.strip()) for number, choice in enumerate(choices)]


def chosen(answer: str, choices: Sequence[str]) -> int | None:
    """Return the place of the one option that an answer chooses, or None.

    It is chosen by its label, alone or before a mark ("B", "(B)", "b.", "B) a cat", "The answer is B: because ..."), or
    by its text. An answer that names two options, or the text of another one behind the label, chooses none.
    """
    noun, options = labelled(choices)
    answer = answer.replace(END_OF_SEQUENCE, "").strip()
    for words in (answer, answer[lead.end() :] if (lead := LEAD.match(answer)) else ""):
        place = _by_label(words, noun, options) if words else None
        if place is None:
            place = _by_text(words, options)
        if place is not None:
            return place
    return None


def _by_label(words: str, noun: str, options: Sequence[tuple[str, str]]) -> int | None:
    labels = [label for label, _ in options]
    one_of = f"[{''.join(labels)}]"
    name = rf"(?:{noun}\s+)?" if noun else ""
    match = re.fullmatch(rf"[(\[]?{name}({one_of})(?:[)\].:]+(.*))?", words, re.IGNORECASE | re.DOTALL)
    if not match:
        return None
    place, rest = labels.index(match[1].upper()), match[2] or ""
    others = set(re.findall(rf"[(\[]({one_of})[)\]]|(?<![\w'’])({one_of})(?:[.)]|$)|\b(?:or|and) ({one_of})\b", rest))
    if {label for found in others for label in found if label} - {labels[place]}:
        return None
    return place if _by_text(rest, options) in (None, place) else None


def _by_text(words: str, options: Sequence[tuple[str, str]]) -> int | None:
    said = normalise(words)
    same = [place for place, (_, text) in enumerate(options) if normalise(text) == said]
    return same[0] if said and len(same) == 1 else None
