"""Say whether an answer is right: it says what is accepted, or equals after the usual VQA normalisation.

docs/scoring.md has the rule in words, with its limits.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence, Set

from train.scoring.answer_words import (
    AND,
    AND_INSIDE,
    ARTICLES,
    BUT,
    BUT_INSIDE,
    DENYING_BEFORE,
    DENYING_WHAT_FOLLOWS,
    HARMLESS_BESIDE,
    IDIOMS,
    LITTLE_WORDS,
    NEGATIONS,
    NEGATIONS_INSIDE,
    OR,
    OR_BETWEEN_WORDS,
    OR_INSIDE,
    PHRASES_DENYING_WHAT_FOLLOWS,
    RELATIVE,
)

# The rules of the VQA evaluation code: vqaEval.py in https://github.com/GT-Vision-Lab/VQA.
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
NUMBERS = "zero one two three four five six seven eight nine ten".split()
WORDS = {"none": "0", **{word: str(number) for number, word in enumerate(NUMBERS)}}
VQA_ARTICLES = {"a", "an", "the"}

SAID = "\x00"  # stands in a text where an accepted one was said
# Scripts that put no blank between words, and Korean, whose particles follow a word without one.
NO_BLANKS = ("CJK UNIFIED", "CJK COMPATIBILITY", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")
PARTICLES_FOLLOW = ("HANGUL",)
SENTENCE_END = re.compile(r"(?<=[.!?。！？؟।…\n])")
QUESTION_MARKS = ("?", "？", "؟")
CLAUSE_END = re.compile(r"[,;:/|()\[\]、，；：،؛–—]|\.{2,}")
WORD = re.compile(rf"{SAID}|[^\W_]+(?:['’][^\W_]+)*")
JOINT = "\n"  # stands where a sentence is split; texts have blanks alone
MAX_ITEM_WORDS = 2  # an item of a list has no more words, articles aside
MAX_ITEM_LETTERS = 4  # or letters, in a script without blanks
MIN_LISTED = 3  # items that make a list of words between commas; two are "yes, red"
MIN_RUN = 3  # words that make a run, besides what was said


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
    return " ".join(word for word in words if word not in VQA_ARTICLES)


def is_correct(predicted: str, expected: str, accept: Sequence[str] | None = None) -> bool:
    """Return whether `predicted` says one of `accept`; without it, whether it equals `expected`.

    To say is more than to hold: a text that is denied, asked, one of several to choose from or one of a list is not
    said.
    """
    if not accept:
        return normalise(predicted) == normalise(expected)
    accepted = sorted((_folded(text) for text in accept), key=len, reverse=True)
    answer = _folded(predicted)
    if answer in accepted:
        return True
    text = _mark(answer, accepted)
    # Where denying is the answer ("no", "nothing"), other denials agree with it.
    may_deny = any(_denies(_words(text), text) for text in accepted)
    return any(_is_said(sentence, may_deny) for sentence in SENTENCE_END.split(text) if SAID in sentence)


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _mark(answer: str, accepted: Iterable[str]) -> str:
    """Put SAID in the place of every accepted text; the longest go first."""
    for text in accepted:
        place = 0
        while (place := answer.find(text, place)) >= 0:
            end = place + len(text)
            if _begins_word(answer, place, text) and _ends_word(answer, end, text):
                answer = f"{answer[:place]} {SAID} {answer[end:]}"
            else:
                place += 1
    return answer


def _begins_word(answer: str, place: int, text: str) -> bool:
    return not place or not _in_word(answer[place - 1]) or not _in_word(text[0]) or _is_of(text[0], NO_BLANKS)


def _ends_word(answer: str, end: int, text: str) -> bool:
    if end == len(answer) or not _in_word(answer[end]) or not _in_word(text[-1]):
        return True
    return _is_of(text[-1], NO_BLANKS + PARTICLES_FOLLOW)


def _in_word(letter: str) -> bool:
    """Return whether a letter, a digit or a sign on a letter: those of Hindi are no letters to `str.isalnum`."""
    return letter.isalnum() or letter == "_" or unicodedata.category(letter).startswith("M")


def _is_of(letter: str, scripts: tuple[str, ...]) -> bool:
    return unicodedata.name(letter, "").startswith(scripts)


def _is_said(sentence: str, may_deny: bool) -> bool:
    """Return whether one of the accepted texts in a sentence is said."""
    if sentence.rstrip().endswith(QUESTION_MARKS):
        return False
    clauses = _clauses(sentence)
    if _is_run(clauses) or _offers_choice(sentence) or _is_list(clauses):
        return False
    return any(_is_affirmed(clause, may_deny) for clause in clauses)


def _clauses(sentence: str) -> list[list[str]]:
    """Split a sentence at marks and words of contrast, and each clause at "and" and "or"."""
    for idiom in IDIOMS:
        sentence = sentence.replace(idiom, " ")
    for phrase in PHRASES_DENYING_WHAT_FOLLOWS:
        sentence = sentence.replace(phrase, "without")
    for word in DENYING_BEFORE:
        sentence = sentence.replace(word, f"{word},")
    sentence = _split_words(sentence, BUT, BUT_INSIDE, ",")
    clauses = [
        _split_words(clause, AND | OR, AND_INSIDE + OR_INSIDE, JOINT).split(JOINT)
        for clause in CLAUSE_END.split(sentence)
    ]
    return [[part for part in clause if _words(part)] for clause in clauses if _words("".join(clause))]


def _split_words(text: str, words: Set[str], inside: Sequence[str], mark: str) -> str:
    """Put `mark` in the place of every one of `words`, and of texts that stand inside of words."""
    text = re.sub(r"[^\W_]+(?:['’][^\W_]+)*", lambda found: mark if found[0] in words else found[0], text)
    for word in inside:
        text = text.replace(word, mark)
    return text


def _words(text: str) -> list[str]:
    return WORD.findall(text)


def _denies(words: Sequence[str], text: str) -> bool:
    """Return whether one of the words denies, or a part of one where words have endings."""
    if any(word in text for word in (*NEGATIONS_INSIDE, *DENYING_BEFORE)):
        return True
    return any(
        (word in NEGATIONS | DENYING_WHAT_FOLLOWS and not _is_harmless(word, words))
        or word.endswith(("n't", "n’t"))
        or word.startswith(("n'", "n’"))
        for word in words
    )


def _is_harmless(word: str, words: Sequence[str]) -> bool:
    return word in HARMLESS_BESIDE and not HARMLESS_BESIDE[word].isdisjoint(words)


def _is_affirmed(clause: Sequence[str], may_deny: bool) -> bool:
    """Return whether something is said in a clause before its denials, as in "red and not blue"."""
    for part in clause:
        for piece in _split_words(part, RELATIVE, (), JOINT).split(JOINT):
            words = _words(piece)
            deniers = [n for n, w in enumerate(words) if w in DENYING_WHAT_FOLLOWS and not _is_harmless(w, words)]
            before = words[: deniers[0]] if deniers and not may_deny else words
            if not may_deny and _denies(before, piece):
                return False
            if SAID in before:
                return True
            if len(before) < len(words):
                return False
    return False


def _content(part: str) -> list[str]:
    return [word for word in _words(part) if word not in ARTICLES]


def _is_item(part: str) -> bool:
    """Return whether a part of a sentence is short enough for an item of a list, and no denial ("no, red")."""
    words = _content(part)
    letters = "".join(words)
    if _denies(_words(part), part):
        return False
    if letters.strip(SAID) and _is_of(letters.strip(SAID)[0], NO_BLANKS):
        return len(letters) <= MAX_ITEM_LETTERS
    return len(words) <= MAX_ITEM_WORDS


def _is_list(clauses: Sequence[Sequence[str]]) -> bool:
    """Return whether a sentence lists bare items of which some are not accepted: "red, green, blue", "red and blue"."""
    run: list[str] = []
    num_joined = 0
    for clause in [*clauses, []]:
        if clause and all(map(_is_item, clause)):
            run += clause
            num_joined = max(num_joined, len(clause))
            continue
        listed = len(run) >= MIN_LISTED or num_joined > 1
        if listed and any(_content(part) == [SAID] for part in run) and not all(SAID in part for part in run):
            return True
        run, num_joined = [], 0
    return False


def _offers_choice(sentence: str) -> bool:
    """Return whether a sentence names something accepted beside an "or" and something else on its other side."""
    marked = _split_words(CLAUSE_END.sub(" ", sentence), OR | OR_BETWEEN_WORDS, OR_INSIDE, JOINT)
    sides = [[word for word in _words(side) if word not in LITTLE_WORDS] for side in marked.split(JOINT)]
    if len(sides) < 2 or not all(sides):  # Portuguese "o" is an article: nothing but little words stands before it
        return False
    return not all(SAID in side for side in sides)


def _is_run(clauses: Sequence[Sequence[str]]) -> bool:
    """Return whether a sentence is a run of words with something accepted at an end: "red green blue yellow"."""
    if len(clauses) != 1 or len(clauses[0]) != 1:
        return False
    words = _words(clauses[0][0])
    others = [word for word in words if word != SAID]
    if len(others) < MIN_RUN or SAID not in (words[0], words[-1]):
        return False
    is_sentence = any(word in LITTLE_WORDS | NEGATIONS | DENYING_WHAT_FOLLOWS for word in others)
    return not is_sentence and all(word.isalpha() and not _is_of(word[0], NO_BLANKS) for word in others)
