"""Each metric on values computed by hand, and on what it must refuse."""

import pytest

from data.errors import UserError
from data.media.locate import Locator
from data.sources.conversation import parse_record
from tests.tiny_data import turns
from train.results.evaluation import questions_of, scored_answer, summary_of
from train.scoring.choices import chosen, labelled
from train.scoring.metric import Rule, rule_of, score, vqa_accuracy
from train.scoring.overlap import rouge_l, token_f1

ANIMALS = ["a cat", "a dog", "the bird"]
CAPTIONS = ["Caption A: A man runs.", "Caption B: A man sits."]


@pytest.mark.parametrize(
    ("answer", "place"),
    [
        *[("B", 1), ("(B)", 1), ("b", 1), ("B.", 1), ("B)", 1), ("[B]", 1), (" B\n", 1), ("B</s>", 1), ("(C", 2)],
        *[("B) a dog", 1), ("(B) A dog.", 1), ("B. It wags its tail.", 1), ("B: because it is not a cat", 1)],
        *[("The best answer is: B", 1), ("Answer: (B)", 1), ("Best option: B.", 1), ("option c", 2)],
        *[("The correct answer is a dog", 1), ("a dog", 1), ("Dog.", 1), ("The bird", 2)],
        # Nothing is chosen: several, none, another one's text, a word that begins with a letter.
        *[("A or B", None), ("A, B", None), ("(A) (B)", None), ("A. B", None), ("B. It is not (A).", None)],
        *[("B. a cat", None), ("B because", None), ("A cat or dog", None), ("Because", None), ("D", None), ("", None)],
        *[("I think it barks", None), ("a", 0), ("a bird", 2), ("</s>", None), ("The answer is", None)],
    ],
)
def test_an_option_is_chosen_by_its_label_or_its_text(answer, place):
    assert chosen(answer, ANIMALS) == place


def test_options_may_bring_their_labels():
    assert labelled(["A. a cat", "B. a dog"]) == ("", [("A", "a cat"), ("B", "a dog")])
    assert labelled(["(B) x", "(A) y"]) == ("", [("B", "x"), ("A", "y")])
    assert labelled(["A. a cat", "a dog"]) == ("", [("A", "A. a cat"), ("B", "a dog")])
    assert labelled(CAPTIONS) == ("Caption", [("A", "A man runs."), ("B", "A man sits.")])
    for answer in ("Caption B", "B", "Caption B.", "caption b: A man sits.", "A man sits"):
        assert chosen(answer, CAPTIONS) == 1, answer
    assert chosen("Option 2", ["Option 1: up", "Option 2: down"]) == 1
    assert chosen("Caption B: A man runs.", CAPTIONS) is None
    assert chosen("same", ["same", "same"]) is None and chosen("B. same", ["same", "same"]) == 1


@pytest.mark.parametrize(
    ("num_same", "accuracy"),
    # Of ten people n agree: leaving out one of those leaves n - 1. 2: (2 * 1/3 + 8 * 2/3) / 10.
    [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)],
)
def test_vqa_accuracy_leaves_out_one_person_at_a_time(num_same, accuracy):
    people = ["red"] * num_same + ["blue"] * (10 - num_same)
    assert vqa_accuracy("The Red.", people) == pytest.approx(accuracy)


def test_words_in_common():
    # 3 of 4 words said, 3 of 3 wanted, articles aside: 2 * 3 / 7.
    assert token_f1("A cat sat down here", "the cat sat down") == pytest.approx(6 / 7)
    assert token_f1("cat cat", "cat") == pytest.approx(2 / 3)
    assert (token_f1("the", ""), token_f1("the", "cat"), token_f1("It's", "its")) == (1, 0, 1)
    # rouge-score's own example: the, quick, brown, jumps, the are 5 of 8 and of 9 words.
    quick = ("The quick brown dog jumps on the log.", "The quick brown fox jumps over the lazy dog")
    assert rouge_l(*quick) == pytest.approx(10 / 17)
    assert (rouge_l("b a", "a b"), rouge_l("", ""), rouge_l("x", "")) == (0.5, 0, 0)
    assert rouge_l("红色的球", "红球") == pytest.approx(4 / 6)


def test_each_metric_by_its_name():
    people = ("red", "red", "red", "dark red")
    for metric, answer, expected, points in [
        (None, "A square", "square", 1),
        ("exact_match", "it is a square", "square", 0),
        ("accept", "It is a square.", "square", 1),
        ("vqa_accuracy", "red", "red", (3 * 2 / 3 + 1) / 4),
        ("token_f1", "dark blue", "red", 0.5),
        ("rouge_l", "dark blue", "red", 0.5),
        ("yes_no", "Yes, it is.", "yes", 1),
        ("yes_no", "It is.", "yes", 0),
        ("yes_no", "No.", "yes", 0),
    ]:
        assert score(answer, expected, None, Rule(metric, answers=people)) == pytest.approx(points), (metric, answer)
    choose = Rule("multiple_choice", choices=tuple(ANIMALS))
    assert [score(answer, "(B) a dog", None, choose) for answer in ("B", "dog", "A", "what?")] == [1, 1, 0, 0]


@pytest.mark.parametrize(
    ("record", "expected", "words"),
    [
        ({"metric": "f1"}, "x", "r1, metric: expected one of exact_match, accept, "),
        ({"metric": "accept"}, "x", "the metric accept needs a list of texts in 'accept'"),
        ({"metric": "vqa_accuracy"}, "x", "needs a list of people's answers in 'answers'"),
        ({"metric": "multiple_choice"}, "x", "needs 2 to 26 texts in 'choices'"),
        ({"metric": "multiple_choice", "choices": ["a", "b"]}, "c", "the expected answer 'c' is none of 'choices'"),
        ({"metric": "yes_no"}, "maybe", "needs yes or no as the expected answer; got 'maybe'"),
        ({"answers": "red"}, "x", "r1, answers: expected a list of texts, got 'red'"),
        ({"choices": ["red", 2]}, "x", "r1, choices: expected a list of texts"),
    ],
)
def test_a_record_that_cannot_be_scored_so_is_named(record, expected, words):
    with pytest.raises(UserError, match="r1") as problem:
        rule_of(record, "r1", expected)
    assert words in str(problem.value)


def asked(tmp_path, in_place_of_its_own=None, **record):
    conversation = parse_record(record, "data.json record 1", Locator((tmp_path,)))
    return questions_of(conversation, source="val", metric=in_place_of_its_own)


def test_a_record_names_its_metric_and_the_command_line_another(tmp_path):
    first, second = asked(
        tmp_path,
        conversations=turns("a?", "B", "b?", "x"),
        metric="multiple_choice",
        choices=[["up", "down"], ["x", "y"]],
        groups={"kind": "direction", "level": 2, "no": None},
    )
    assert first.rule == Rule("multiple_choice", (), ("up", "down")) and second.rule.choices == ("x", "y")
    assert first.groups == {"kind": "direction", "level": "2"} and first.source == "val"
    assert scored_answer(first, "down")["correct"] and not scored_answer(second, "B")["correct"]
    (other,) = asked(tmp_path, "token_f1", conversations=turns("a?", "a red ball"), metric="exact_match")
    record = scored_answer(other, "red")
    assert record["score"] == pytest.approx(2 / 3) and record["correct"] is True
    with pytest.raises(UserError, match="data.json record 1, groups: expected texts by name"):
        asked(tmp_path, conversations=turns("a?", "b"), groups=["x"])


def test_the_summary_by_source_modality_and_group(tmp_path):
    """Four questions: one is left out; two are right, one about a clip and one without media."""
    clip = {"video": "a.mp4", "groups": {"type": "motion"}}
    questions = [
        *asked(tmp_path, **clip, conversations=turns("<video>\na?", "x")),
        *asked(tmp_path, **clip, conversations=turns("<video>\nb?", "x")),
        *asked(tmp_path, image="a.png", conversations=turns("<image>\nc?", "x")),
        *asked(tmp_path, conversations=turns("d?", "x"), accept=["x"]),
    ]
    records = {place: scored_answer(questions[place], said) for place, said in [(0, "x"), (1, "y"), (3, "x!")]}
    summary = summary_of(questions, records)
    assert (summary["accuracy"], summary["accuracy_over_all"]) == (pytest.approx(2 / 3), 0.5)
    assert (summary["questions"], summary["left_out"], summary["metric"]) == (3, 1, None)
    assert summary["sources"].keys() == {"val"} and summary["sources"]["val"]["questions"] == 3
    clips, pictures, words = (summary["modalities"][name] for name in ("clip", "picture", "text"))
    assert (clips["accuracy"], clips["questions"], clips["metric"]) == (0.5, 2, "exact_match")
    assert (pictures["accuracy"], pictures["interval"], pictures["left_out"]) == (None, None, 1)
    assert (words["accuracy"], words["metric"], words["accuracy_over_all"]) == (1.0, "accept", 1.0)
    assert summary["groups"] == {"type": {"motion": clips}}


def test_accept_for_all_records_is_about_the_expected_answer_where_one_accepts_nothing():
    rule = rule_of({}, "r1", "red", "accept")
    assert score("It is red.", "red", None, rule) == 1 and score("It is not red.", "red", None, rule) == 0
