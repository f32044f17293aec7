"""Adapters with weights on a command line: what is meant, and what cannot be."""

from pathlib import Path

import pytest

from data.errors import UserError
from train.mixing.given import Combination, Given, adapters_and_folder, settings_of_combination


@pytest.fixture
def folders(tmp_path, monkeypatch) -> Path:
    """A place with adapters called a, b, lr=2e-4 and run, and one called run=0.5."""
    for name in ("a", "b", "lr=2e-4", "run", "run=0.5", "x=y/z=1"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "given", "out"),
    [
        (["a", "out"], [("a", None)], "out"),
        (["lr=2e-4", "out"], [("lr=2e-4", None)], "out"),
        (["lr=2e-4=0.5", "b=.5", "out"], [("lr=2e-4", 0.5), ("b", 0.5)], "out"),
        (["x=y/z=1=-2", "me/adapter=1e-1", "out"], [("x=y/z=1", -2.0), ("me/adapter", 0.1)], "out"),
        (["a=0", "b=1", "out=0.5/"], [("a", 0.0), ("b", 1.0)], "out=0.5"),
        (["a", "out=0.5"], [("a", None)], "out=0.5"),
        (["run=0.5=1", "./run/=0.5", "out"], [("run=0.5", 1.0), ("./run/", 0.5)], "out"),
        (["a=+3.", "out"], [("a", 3.0)], "out"),
    ],
)
def test_the_last_equals_sign_parts_a_name_from_its_weight(words, given, out, folders):
    assert adapters_and_folder(words) == ([Given(*each) for each in given], Path(out))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a"], "'a' alone: give adapters"),
        (["a=0.7", "b=0.3"], "b=0.3: OUT_DIR comes last, and this has a weight"),
        (["a=0.7", "me/other=0.3"], "me/other=0.3: OUT_DIR comes last"),
        (["a=0.7", "b", "out"], "b has no weight: give each of several adapters one, such as b=0.5"),
        (["a", "b", "out"], "a has no weight"),
        (["a=half", "b=0.5", "out"], "a=half: 'half' is no number; give ADAPTER=WEIGHT, such as a=0.5"),
        (["a=nan", "out"], "'nan' is no number"),
        (["a=inf", "out"], "'inf' is no number"),
        (["a=1e999", "out"], "'1e999' is too large a weight; give one from -1,000,000 to 1,000,000"),
        (["a=-1000001", "out"], "'-1000001' is too large a weight"),
        (["a=1_0", "out"], "'1_0' is no number"),
        (["a=", "out"], "'' is no number"),
        (["a=٣", "out"], "is no number"),
        (["=0.5", "out"], "'=0.5': there is no adapter before the ="),
        (["a=0.5", "a=0.5", "out"], "a is given twice, also as a"),
        (["a=0.5", "./b/../a=0.5", "out"], "./b/../a is given twice, also as a"),
        (["me/x=0.5", "me/x=1", "out"], "me/x is given twice"),
        (["a=0", "b=-0.0", "out"], "all weights are 0: that is the base alone"),
        (
            ["run=0.5", "out"],
            "both 'run' and 'run=0.5' are there; give run=0.5=1 for the second, or ./run/=0.5",
        ),
    ],
)
def test_what_cannot_be_meant_is_one_line(words, message, folders):
    with pytest.raises(UserError) as caught:
        adapters_and_folder(words)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("ties", None, None), "--combine ties keeps a share of each change: say which with --density"),
        ((None, 0.5, None), "--density: --combine linear keeps every change whole"),
        (("ties", 0.0, None), "--density 0: give a share above 0"),
        (("ties", 1.5, None), "--density 1.5: give a share"),
        (("ties", float("nan"), None), "--density nan: give a share"),
        (("ties", 0.5, 1), "--seed: --combine ties draws nothing; it is for dare_linear and dare_ties"),
        ((None, None, 1), "--seed: --combine linear draws nothing"),
        (("svd", 0.5, None), "--combine svd is not known; take one of linear, ties"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(options, message):
    with pytest.raises(UserError) as caught:
        settings_of_combination(*options)
    assert message in str(caught.value)


def test_options_of_mixtures_are_for_weights_alone():
    assert settings_of_combination(None, None, None, is_mixture=False) == Combination("linear")
    assert settings_of_combination("dare_ties", 0.2, None) == Combination("dare_ties", 0.2, 0)
    assert str(Combination("dare_ties", 0.2, 7)) == "dare_ties, density 0.2, seed 7"
    for options in (("ties", 0.5, None), (None, 0.5, None), (None, None, 0)):
        with pytest.raises(UserError, match="is for adapters with weights, such as A=0.7 B=0.3"):
            settings_of_combination(*options, is_mixture=False)
