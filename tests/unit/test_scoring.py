import pytest

from train.scoring.accepted import is_correct, normalise


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


# (answer, what is accepted, whether it is right): ten of each language, by the rule in docs/scoring.md.
PAIRS = {
    "English": [
        ("It is red.", "red", True),
        ("It is not red.", "red", False),
        ("It isn’t red", "red", False),
        ("It is not blue, it is red.", "red", True),
        ("It is red and not blue.", "red", True),
        ("red green blue yellow", "red", False),
        ("red, green or blue", "red", False),
        ("Is it red?", "red", False),
        ("a dog that is not moving", "dog", True),
        ("Blue instead of red", "red", False),
    ],
    "German": [
        ("Es ist rot.", "rot", True),
        ("Es ist nicht rot.", "rot", False),
        ("Nicht blau, sondern rot", "rot", True),
        ("Es ist rot und nicht blau.", "rot", True),
        ("Das ist kein Hund.", "Hund", False),
        ("Weder rot noch blau", "blau", False),
        ("rot oder blau", "rot", False),
        ("rot grün blau gelb", "rot", False),
        ("Das Ei ist rot.", "rot", True),
        ("Eine weiße STRASSE", "Straße", True),
    ],
    "French": [
        ("C'est rouge.", "rouge", True),
        ("Ce n'est pas rouge.", "rouge", False),
        ("Ce n'est pas bleu, mais rouge.", "rouge", True),
        ("Sans doute rouge", "rouge", True),
        ("Il n'y a aucun chien", "chien", False),
        ("rouge ou bleu", "rouge", False),
        ("rouge vert bleu jaune", "rouge", False),
        ("rouge, vert et bleu", "rouge", False),
        ("Non, c'est rouge", "rouge", True),
        ("La voiture est rouge et blanche", "rouge", True),
    ],
    "Spanish": [
        ("Es rojo.", "rojo", True),
        ("No es rojo.", "rojo", False),
        ("No, es rojo.", "rojo", True),
        ("No es azul, sino rojo.", "rojo", True),
        ("Es rojo o azul", "rojo", False),
        ("azul o rojo", "rojo", False),
        ("rojo verde azul amarillo", "rojo", False),
        ("Un coche sin ruedas", "ruedas", False),
        ("Un coche sin ruedas", "coche", True),
        ("¿Es rojo?", "rojo", False),
    ],
    "Russian": [
        ("Он красный.", "красный", True),
        ("Он не красный.", "красный", False),
        ("Не синий, а красный.", "красный", True),
        ("Ни красный, ни синий", "синий", False),
        ("Там нет собаки", "собаки", False),
        ("Нет, он красный.", "красный", True),
        ("красный или синий", "красный", False),
        ("красный зелёный синий жёлтый", "красный", False),
        ("Он красный?", "красный", False),
        ("Это КРАСНЫЙ круг", "красный", True),
    ],
    "Chinese": [
        ("它是红色的。", "红色", True),
        ("它不是红色的。", "红色", False),
        ("不是蓝色，而是红色。", "红色", True),
        ("不是蓝色，而是红色。", "蓝色", False),
        ("红色或蓝色", "红色", False),
        ("红色、绿色、蓝色", "红色", False),
        ("红色和蓝色", "红色", False),
        ("它非常红。", "红", True),
        ("是红色吗？", "红色", False),
        ("是的，红色。", "红色", True),
    ],
}


def test_the_table_has_sixty_pairs_in_six_languages():
    assert {language: len(pairs) for language, pairs in PAIRS.items()} == dict.fromkeys(PAIRS, 10)
    assert len(PAIRS) == 6
    right = [is_right for pairs in PAIRS.values() for _, _, is_right in pairs]
    assert 20 <= sum(right) <= 40


@pytest.mark.parametrize(("predicted", "accepted", "is_right"), [pair for pairs in PAIRS.values() for pair in pairs])
def test_an_accepted_text_must_be_said(predicted, accepted, is_right):
    assert is_correct(predicted, "something else", [accepted]) is is_right


@pytest.mark.parametrize(
    ("predicted", "accept", "correct"),
    [
        ("It moves to the LEFT.", ["left"], True),
        ("It moves leftwards", ["left"], False),
        ("Overleft", ["left"], False),
        ("to the right", ["left", "right"], True),
        ("to the  top\nleft corner", ["top left"], True),
        ("top, left", ["top left"], False),
        ("written in C++.", ["c++"], True),
        ("a left-handed man", ["left"], True),
        ("", ["left"], False),
        ("It moves from right to left.", ["left"], True),
        ("a red square on a blue background", ["red"], True),
        ("red or crimson", ["red", "crimson"], True),
        ("red and blue", ["red"], False),
        ("red and blue", ["red and blue"], True),
        ("Yes, red.", ["red"], True),
        ("There is no doubt, it is red", ["red"], True),
        ("a man without a hat", ["man"], True),
        ("a man without a hat", ["hat"], False),
        # Where the answer is a denial, other denials agree with it.
        ("No, it is not.", ["no"], True),
        ("There is no dog", ["no"], True),
        ("at 10:30, 3.5 m high", ["3.5"], True),
        ("at 10:30", ["10:30"], True),
        # Endings, signs on letters, denials behind what they deny.
        ("青ではなく赤です", ["赤"], True),
        ("青ではなく赤です", ["青"], False),
        ("赤ではありません", ["赤"], False),
        ("빨간색입니다", ["빨간색"], True),
        ("빨간색이 아닙니다", ["빨간색"], False),
        ("यह लाल है", ["लाल"], True),
        ("यह लाल है", ["ला"], False),
        ("यह लाल नहीं है", ["लाल"], False),
        ("kırmızı değil", ["kırmızı"], False),
        ("mavi değil kırmızı", ["kırmızı"], True),
        ("ليس أحمر", ["أحمر"], False),
        ("O gato está no carro vermelho", ["vermelho"], True),
        ("é o vermelho", ["vermelho"], True),
        ("não é vermelho", ["vermelho"], False),
    ],
)
def test_words_lists_and_denials(predicted, accept, correct):
    assert is_correct(predicted, "something else", accept) is correct
