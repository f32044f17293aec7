"""Intervals and tests against scipy, which computes them another way, and the table that shows them."""

import pytest
from scipy.stats import binomtest

from train.scoring.interval import mcnemar, wilson
from train.scoring.summary import Scored, summarise
from train.scoring.table import print_table


@pytest.mark.parametrize(("right", "number"), [(0, 1), (0, 10), (1, 1), (5, 10), (10, 10), (40, 50), (1234, 8000)])
def test_wilson_s_interval_is_scipy_s(right, number):
    expected = binomtest(right, number).proportion_ci(method="wilson")
    assert wilson(right / number, number) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert all(0 <= end <= 1 for end in wilson(right / number, number))


def test_the_interval_of_nothing_is_everything():
    assert wilson(0.0, 0) == (0, 1)
    assert (wilson(0.0, 10)[0], wilson(1.0, 10)[1]) == (0, 1)


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (1, 0), (0, 6), (5, 15), (10, 10), (11, 10), (119, 81)])
def test_mcnemar_s_test_is_a_test_of_coins(wins, losses):
    expected = binomtest(wins, wins + losses).pvalue if wins + losses else 1
    assert mcnemar(wins, losses) == pytest.approx(expected) == mcnemar(losses, wins)


def test_the_table_has_a_line_a_part_and_80_columns(capsys):
    long = "a" * 70 + "/val.jsonl"
    scored = [
        Scored(1.0, long, "clip", "exact_match", {"type": "3 Yes/No"}),
        Scored(0.5, "pictures[/red].json", "picture", "vqa_accuracy", {"type": "4 Color"}),
        Scored(None, "pictures[/red].json", "picture", "vqa_accuracy"),
    ]
    print_table(summarise(scored))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    words = [" ".join(line.split()) for line in lines]
    assert words[0] == "questions left out accuracy 95 % interval"
    assert words[-1] == "all 2 1 75.0% 19.8% to 97.3%"
    assert "modality clip 1 0 100.0% 20.7% to 100.0%" in words
    assert any(line.startswith("modality picture,") and line.endswith(" 1 1 50.0% 5.5% to 94.5%") for line in words)
    assert "type 3 Yes/No 1 0 100.0% 20.7% to 100.0%" in words
    assert any(line.startswith("source pictures[/red].json") for line in words)


def test_a_single_part_is_not_repeated(capsys):
    print_table(summarise([Scored(0.0, "val.json", "text", "exact_match")]))
    assert [line.split()[:1] for line in capsys.readouterr().out.splitlines()] == [["questions"], ["all"]]
