"""The share of words that an answer and the expected one have in common: SQuAD's F1 and ROUGE-L."""

import re
import string
from collections import Counter
from collections.abc import Sequence

SQUAD_ARTICLES = re.compile(r"\b(a|an|the)\b")
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
# In ASCII the tokens of Google's rouge-score, [a-z0-9]+; that drops every other letter. A sign of a script that puts no
# blank between words (Thai, Lao, Burmese, Khmer, Japanese, Chinese) is a token of its own.
NO_BLANKS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
TOKEN = re.compile(rf"[{NO_BLANKS}]|[^\W_{NO_BLANKS}]+")


def token_f1(predicted: str, expected: str) -> float:
    """Return the F1 of words in common, as SQuAD's evaluate-v2.0.py: without articles and punctuation, case folded.

    Where one of the two has no word left, 1 if both have none.
    """
    said, wanted = _squad_words(predicted), _squad_words(expected)
    if not said or not wanted:
        return float(said == wanted)
    return _f1(sum((Counter(said) & Counter(wanted)).values()), len(said), len(wanted))


def rouge_l(predicted: str, expected: str) -> float:
    """Return the F1 of the longest common subsequence of words, as rouge-score's rougeL without stemming."""
    said, wanted = TOKEN.findall(predicted.lower()), TOKEN.findall(expected.lower())
    if not said or not wanted:
        return 0.0
    return _f1(_longest_common(said, wanted), len(said), len(wanted))


def _squad_words(text: str) -> list[str]:
    return SQUAD_ARTICLES.sub(" ", text.lower().translate(WITHOUT_PUNCTUATION)).split()


def _f1(num_common: int, num_said: int, num_wanted: int) -> float:
    return 2 * num_common / (num_said + num_wanted)


def _longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence, a line of the table at a time."""
    before = [0] * (len(second) + 1)
    for word in first:
        line = [0]
        for place, other in enumerate(second):
            line.append(before[place] + 1 if word == other else max(before[place + 1], line[place]))
        before = line
    return before[-1]
