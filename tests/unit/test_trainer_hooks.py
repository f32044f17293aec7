"""Everything that is overridden of transformers.Trainer is there, and takes what we think it takes."""

import inspect

import pytest
from transformers import Trainer

from train.loop.hooks import HookedTrainer
from train.loop.trainer import RowTrainer

PRIVATE = {"_get_output_dir", "_save_checkpoint", "_load_best_model", "_load_from_checkpoint", "_run_epoch"}
CALLED = {  # private methods that are called: name -> the parameters that are given by position
    "_evaluate": ["trial", "ignore_keys_for_eval"],
    "_determine_best_metric": ["metrics", "trial"],
    "_prepare_inputs": ["inputs"],
}


def overridden(trainer: type) -> set[str]:
    methods = {name for name, value in vars(trainer).items() if inspect.isfunction(value)}
    return {name for name in methods if name in vars(Trainer) and not name.startswith("__")}


def parameters(trainer: type, name: str) -> list[tuple]:
    """Name and default of each; defaults decide what a call without an argument means."""
    return [(each.name, each.default) for each in inspect.signature(getattr(trainer, name)).parameters.values()]


def test_private_methods_are_overridden_in_one_place():
    assert {name for name in overridden(HookedTrainer) if name.startswith("_")} == PRIVATE
    assert {name for name in overridden(RowTrainer) if name.startswith("_")} == set()


@pytest.mark.parametrize("name", sorted(overridden(HookedTrainer) | overridden(RowTrainer)))
def test_an_override_takes_what_the_method_takes(name):
    if name != "_run_epoch":  # passes on whatever it is given
        assert parameters(RowTrainer, name) == parameters(Trainer, name)


@pytest.mark.parametrize("name", CALLED)
def test_private_methods_that_are_called_take_what_they_are_given(name):
    given = ["self", *CALLED[name]]
    assert [each for each, _ in parameters(Trainer, name)][: len(given)] == given


def test_private_methods_are_not_those_of_a_new_version_by_chance():
    """All are still used: Trainer calls them."""
    source = inspect.getsource(Trainer)
    assert [name for name in PRIVATE if f"self.{name}(" not in source] == []
