"""A short run with evaluation, and what it leaves."""

from pathlib import Path

import pytest
import yaml
from transformers import TrainerCallback

from train import sft

STEPS, SAVED = 6, 2


@pytest.fixture
def recipe_file(model_folder, mixed_file, tmp_path) -> Path:
    """6 steps of one row each, an evaluation and a checkpoint every second one; dropout, so that random numbers
    matter."""
    recipe = {
        "model": {"name_or_path": str(model_folder), "dtype": "float32"},
        "lora": {"r": 4, "alpha": 4, "dropout": 0.1},
        "data": {
            "train": [{"path": str(mixed_file)}],
            "eval": [{"path": str(mixed_file)}],
            "max_length": 512,
            "max_tokens_per_row": 512,
            "rows_per_step": 1,
        },
        "training": {
            "output_dir": str(tmp_path / "out"),
            "max_steps": STEPS,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "eval_strategy": "steps",
            "eval_steps": SAVED,
            "save_steps": SAVED,
            "save_total_limit": 9,
            "report_to": "none",
            "disable_tqdm": True,
        },
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


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
        callbacks = sft.callbacks
        monkeypatch.setattr(sft, "callbacks", lambda *args: [*callbacks(*args), callback])

    return install
