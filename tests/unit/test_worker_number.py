"""The number of data loader workers that `auto` takes: from planted times."""

from itertools import product
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainingArguments

from data.errors import UserError
from train.estimating import workers
from train.estimating.workers import enough, most_workers, seconds_to_train, size_workers, this_cpu
from train.recipe.load import load_recipe
from train.recipe.training_arguments import build_training_arguments


@pytest.mark.parametrize(
    ("making", "training", "most", "number"),
    [
        (0.1, 2.0, 7, 1),
        (1.0, 2.0, 7, 1),  # twice the time still fits one
        (1.01, 2.0, 7, 2),
        (3.0, 1.0, 7, 6),
        (3.0, 0.5, 7, 7),  # twelve would be needed
        (0.0, 0.5, 7, 1),
        (9.0, 1.0, 1, 1),
    ],
)
def test_it_follows_from_both_times_and_the_cores(making, training, most, number):
    line = f"workers: auto takes {number}: a row's data take {making:.2f} s, training about {training:.2f} s"
    assert enough(making, training, most) == (number, line)


@pytest.mark.parametrize(
    ("cores", "num_processes", "number"), [(16, 1, 15), (16, 4, 3), (16, 3, 4), (2, 1, 1), (1, 1, 1), (4, 8, 1)]
)
def test_each_process_keeps_a_core_for_itself(cores, num_processes, number):
    assert most_workers(cores, num_processes) == number


def test_no_line_is_wider_than_a_terminal():
    lines = [enough(*values)[1] for values in product((0.0, 0.004, 99.994), (0.001, 99.994), (1, 128))]
    assert max(map(len, lines)) <= 80


def settled(recipe, rows=None):
    """Return the line and the number of workers for a recipe."""
    args = build_training_arguments({**recipe.training, "use_cpu": True})
    return size_workers(recipe, None, rows, args), args.dataloader_num_workers


def written(folder, *overrides):
    path = folder / "recipe.yaml"
    path.write_text("model: {name_or_path: x}\ndata: {train: [{path: x.json}]}\ntraining: {output_dir: out}\n")
    return load_recipe(path, list(overrides))


def test_a_number_stays_as_it_is(tmp_path):
    assert settled(written(tmp_path)) == ([], 0)
    assert settled(written(tmp_path, "training.dataloader_num_workers=3")) == ([], 3)


@pytest.mark.parametrize("wrong", ["-1", "'2'", "automatic", "1.5", "null"])
def test_it_is_a_number_or_auto(wrong, tmp_path):
    with pytest.raises(UserError, match="training.dataloader_num_workers: must be"):
        written(tmp_path, f"training.dataloader_num_workers={wrong}")


def test_of_a_stream_nothing_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "num_cores", lambda: 3)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    recipe = written(tmp_path, "training.dataloader_num_workers=auto", "data.streaming=true", "training.max_steps=5")
    assert settled(recipe) == (["workers: auto takes 2: a stream is not known before it is read"], 2)


def test_a_step_that_cannot_be_counted_takes_a_few(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("needs numbers")

    monkeypatch.setattr(workers, "num_cores", lambda: 64)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(workers, "count", fail)
    monkeypatch.setattr(workers, "rows_of", fail)
    recipe = written(tmp_path, "training.dataloader_num_workers=auto")
    assert settled(recipe) == (["workers: auto takes 4: how long a step takes is not known"], 4)


def test_the_speed_of_a_cpu_is_measured_without_a_random_number():
    before = torch.get_rng_state()
    cpu = this_cpu()
    assert cpu.tflops > 1e-3 and cpu.bandwidth > 0.1
    assert torch.equal(before, torch.get_rng_state())


def test_a_mean_row_takes_its_share_of_the_largest(monkeypatch):
    known = SimpleNamespace(share=0.25, largest=[object()] * 2)
    for name, result in (("rows_of", known), ("situation", None), ("count", "need"), ("this_cpu", "cpu")):
        monkeypatch.setattr(workers, name, lambda *_, result=result, **__: result)
    monkeypatch.setattr(workers, "gpu_at_hand", lambda: None)
    monkeypatch.setattr(workers, "seconds", lambda *given: 8.0 if given == ("need", "cpu", False) else None)
    recipe = SimpleNamespace(model=SimpleNamespace(quantization=None))
    assert seconds_to_train(recipe, None, None, TrainingArguments("out", use_cpu=True)) == 1.0
