import pytest

from train.results.scoring import is_correct, normalise


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("The red square.", "red square"),
        ("RED", "red"),
        ("  two\tdogs\nand a cat ", "2 dogs and cat"),
        ("None", "0"),
        ("ten", "10"),
        ("eleven", "eleven"),
        ("red, blue", "red blue"),
        ("red,blue", "red blue"),
        ("well-known", "well known"),
        ("well - known", "well known"),
        ("10,000 people", "10000 people"),
        ("3.5 m.", "3.5 m"),
        ("it's (probably) a dog!", "its probably dog"),
        ("don’t", "dont"),
        ("another", "another"),
        ("The the", ""),
        ("", ""),
    ],
)
def test_normalise(answer, normal):
    assert normalise(answer) == normal


def test_without_accept_the_normal_forms_must_be_equal():
    assert is_correct("A red square.", "red square")
    assert is_correct("Two", "2")
    assert not is_correct("It is a red square", "red square")
    assert is_correct("", "the")
    assert is_correct("left", "left", accept=[]) and not is_correct("right", "left", accept=[])


@pytest.mark.parametrize(
    ("predicted", "accept", "correct"),
    [
        ("It moves to the LEFT.", ["left"], True),
        ("It moves leftwards", ["left"], False),
        ("Overleft", ["left"], False),
        ("to the right", ["left", "right"], True),
        ("to the  top\nleft corner", ["top left"], True),
        ("top, left", ["top left"], False),
        ("Straße", ["STRASSE"], True),
        ("written in C++.", ["c++"], True),
        ("a left-handed man", ["left"], True),
        ("", ["left"], False),
    ],
)
def test_accept_finds_whole_words_whatever_is_expected(predicted, accept, correct):
    assert is_correct(predicted, "something else", accept) is correct
