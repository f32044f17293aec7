"""A short run with evaluation, and what it leaves."""

from pathlib import Path

import pytest
from transformers import TrainerCallback

from tests.short_run import write_recipe
from train import sft

STEPS, SAVED = 6, 2


@pytest.fixture(scope="session")
def model_folder(shallow_folder) -> Path:
    return shallow_folder


@pytest.fixture
def recipe_file(model_folder, mixed_file, tmp_path) -> Path:
    """6 steps of one row each, an evaluation and a checkpoint every second one; dropout, so that random numbers
    matter."""
    training = {
        "max_steps": STEPS,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": SAVED,
        "save_steps": SAVED,
        "save_total_limit": 9,
    }
    evaluation = {"eval": [{"path": str(mixed_file)}]}
    return write_recipe(tmp_path, model_folder, mixed_file, {"dropout": 0.1}, evaluation, training)


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def at(monkeypatch):
    """at("on_step_end", 3, action): training calls `action` there, once, as transformers' callbacks are called."""

    def install(event, step, action):
        def call(self, args, state, control, **kwargs):
            if state.global_step == step and not done:
                done.append(True)
                action()

        done = []
        callback = type("At", (TrainerCallback,), {event: call})()

        class Watched(sft.RowTrainer):
            def __init__(self, **kwargs):
                super().__init__(**{**kwargs, "callbacks": [*kwargs["callbacks"], callback]})

        monkeypatch.setattr(sft, "RowTrainer", Watched)

    return install
