"""Rows, weights and resuming are the same whatever the number of workers is, and `auto` chooses one."""

import shutil

import pytest

from tests.short_run import result, write_recipe
from train.estimating import workers
from train.loop import trainer
from train.sft import main


@pytest.fixture
def run(model_folder, mixed_file, tmp_path, monkeypatch):
    """Trains with some workers, and returns the result's bytes and the names of all rows in their order."""
    training = {"max_steps": 2, "save_steps": 1, "save_total_limit": 9, "learning_rate": 1e-2, "logging_steps": 1}
    data = {"rows_per_step": 1, "frame_sampling": "jitter"}
    recipe_file = write_recipe(tmp_path, model_folder, mixed_file, {"dropout": 0.1}, data, training)
    begin_step, rows = trainer.NonFiniteGuard.begin_step, []

    def noted(self, names, deepspeed):
        rows.append(list(names))
        return begin_step(self, names, deepspeed)

    monkeypatch.setattr(trainer.NonFiniteGuard, "begin_step", noted)

    def train(name: str, num_workers: int | str) -> tuple[bytes, list[list[str]]]:
        rows.clear()
        settings = (f"training.output_dir={tmp_path / name}", f"training.dataloader_num_workers={num_workers}")
        main([str(recipe_file), *settings])
        return result(tmp_path / name), list(rows)

    return train


def test_rows_and_weights_do_not_depend_on_workers(run, tmp_path, monkeypatch, capsys):
    alone = run("alone", 0)
    assert len(alone[1]) == 2 and all(alone[1])
    assert run("three", 3) == alone
    # Continued behind the first step with another number, chosen from real times; of two cores one is for a worker.
    shutil.copytree(tmp_path / "three" / "checkpoint-1", tmp_path / "continued" / "checkpoint-1")
    monkeypatch.setattr(workers, "num_cores", lambda: 2)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    capsys.readouterr()
    assert run("continued", "auto") == (alone[0], alone[1][1:])
    assert "workers: auto takes 1: a row's data take " in capsys.readouterr().out
