"""An answer's text comes in pieces that are certain, and all of them are the text."""

import random

import pytest

from tests.llama_tokenizers import KINDS
from tests.tiny_data import WORDS
from train.model.build import train_tokenizer
from train.talking.words import Words

TEXTS = ["The shape moves to the right.", "1,5 € und 漢字 😀!", "a  b\n\n c", "\n", "", "été 😀😀 right", "👩‍👩‍👧 left"]


def stream(tokenizer, ids, stop=()):
    """Return the pieces of an answer, and what was given out after each token."""
    words, given = Words(tokenizer, stop), []
    pieces = []
    for number in ids:
        pieces.append(words.add(number))
        given.append(words.given)
        if words.is_stopped:
            break
    pieces.append(words.end())
    assert "".join(pieces) == words.given
    return words, pieces


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.__name__)
def tokenizer(request, tmp_path_factory):
    return request.param(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize("text", TEXTS)
def test_the_pieces_are_the_text(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False).input_ids
    words, pieces = stream(tokenizer, [*ids, tokenizer.eos_token_id])
    assert words.given == tokenizer.decode(ids, skip_special_tokens=True).strip() == text.strip()
    assert "\ufffd" not in "".join(pieces)


def test_pieces_come_before_the_end(tokenizer):
    ids = tokenizer("The shape moves to the right and the left.", add_special_tokens=False).input_ids
    _, pieces = stream(tokenizer, ids)
    assert sum(map(bool, pieces)) > 5


def test_whatever_is_said_the_pieces_are_what_is_decoded(tokenizer):
    """Random tokens, as of a model that has learned nothing: broken characters, special tokens amid them."""
    chance = random.Random(0)
    for _ in range(200):
        ids = [chance.randrange(len(tokenizer)) for _ in range(chance.randrange(1, 12))]
        words, _ = stream(tokenizer, ids)
        assert words.given == tokenizer.decode(ids, skip_special_tokens=True).strip(), ids


def test_half_a_character_waits_for_its_other_half():
    tokenizer = train_tokenizer([WORDS])
    ids = tokenizer("red €", add_special_tokens=False).input_ids
    words = Words(tokenizer)
    assert [words.add(number) for number in ids][-3:] == ["", "", ""] and words.given == "red"
    assert words.end() == " €"


def test_a_broken_byte_breaks_its_neighbours_before_they_are_shown():
    """The decoder makes four marks of é and two lone bytes: é is not shown before that is known."""
    tokenizer = train_tokenizer([WORDS])
    ids = tokenizer.convert_tokens_to_ids(["▁", "<0xC3>", "<0xA9>", "<0xC3>", "<0xC3>"])
    ids += tokenizer("right", add_special_tokens=False).input_ids
    words, pieces = stream(tokenizer, ids)
    assert words.given == "\ufffd\ufffd\ufffd\ufffd right" and pieces[:5] == [""] * 5


@pytest.mark.parametrize(
    ("stop", "given"),
    [
        (["moves"], "The shape"),
        (["es to the le", "to the r"], "The shape moves"),
        (["shape moves to the right and on"], "The shape moves to the right."),
        (["\n"], "The shape moves to the right."),
        (["The"], ""),
    ],
)
def test_a_stop_is_no_part_of_the_answer_nor_is_half_of_one(tokenizer, stop, given):
    ids = tokenizer("The shape moves to the right.\nIt", add_special_tokens=False).input_ids
    if stop == ["shape moves to the right and on"]:
        ids = tokenizer("The shape moves to the right.", add_special_tokens=False).input_ids
    words, pieces = stream(tokenizer, ids, stop)
    assert words.given == given and words.is_stopped == (given != "The shape moves to the right." or stop == ["\n"])
