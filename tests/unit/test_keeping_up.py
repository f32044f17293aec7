"""The line about the workers of the data loader: from planted times."""

from itertools import product
from types import SimpleNamespace

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from train.loop import keeping_up
from train.loop.keeping_up import NUM_STEPS, KeepingUp, keeping_up_line


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Trains in planted seconds: to make the data of a step, to train on them, and between two steps."""
    monkeypatch.setattr(keeping_up, "num_cores", lambda: 8)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)

    def run(num_workers: int, steps: list[tuple[float, float, float]], is_first_rank: bool = True) -> None:
        clock = SimpleNamespace(now=50.0)
        args = TrainingArguments(str(tmp_path), use_cpu=True)
        watch = KeepingUp(num_workers, lambda: clock.now)
        for making, training, between in steps:
            watch.begin_step(making)
            clock.now += training
            watch.on_step_end(args, TrainerState(is_world_process_zero=is_first_rank), TrainerControl())
            clock.now += between

    return run


@pytest.mark.parametrize(
    ("num_workers", "making", "line"),
    [
        (4, 0.8, "4 workers keep up: a step 2.00 s, its data 0.80 s"),
        (1, 2.0, "1 worker keeps up: a step 2.00 s, its data 2.00 s"),
        (2, 9.0, "2 workers do not keep up, 5 would: a step 2.00 s, its data 9.00 s"),
        (1, 2.1, "1 worker does not keep up, 2 would: a step 2.00 s, its data 2.10 s"),
        (4, 30.0, "4 workers do not keep up: 15 on more cores would, or data.frame_cache"),
        (0, 0.5, "0 workers do not keep up, 1 would: a step 2.00 s, its data 0.50 s"),
        (0, 0.01, "no worker is needed: a step 2.00 s, its data 0.01 s"),
    ],
)
def test_it_follows_from_both_times(num_workers, making, line, train, capsys):
    """The first step, and what lies between two steps, count for nothing."""
    train(num_workers, [(100.0, 70.0, 30.0)] + [(making, 2.0, 30.0)] * 9)
    assert capsys.readouterr().out == f"      {line}\n"


def test_it_is_a_mean_of_steps(train, capsys):
    train(2, [(0.0, 9.0, 0.0)] + [(number, 1.0, 0.0) for number in (1.0, 2.0, 3.0, 4.0, 5.0)] + [(900.0, 1.0, 0.0)])
    assert capsys.readouterr().out == ("      2 workers do not keep up, 3 would: a step 1.00 s, its data 3.00 s\n")


def test_nothing_is_said_of_a_few_steps_or_by_other_ranks(train, capsys):
    train(2, [(1.0, 1.0, 0.0)] * NUM_STEPS)
    train(2, [(1.0, 1.0, 0.0)] * 20, is_first_rank=False)
    assert capsys.readouterr().out == ""


def test_ranks_share_the_cores(train, capsys, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")  # of 8 cores, each has two
    train(1, [(2.5, 1.0, 0.0)] * 7)
    assert "3 on more cores would" in capsys.readouterr().out


def test_no_line_is_wider_than_a_terminal():
    seconds = (0.0, 0.001, 99.994, 99.996, 1234.5)
    lines = [keeping_up_line(*values) for values in product((0, 1, 64), seconds, seconds, (1, 128))]
    assert max(map(len, lines)) <= 80, max(lines, key=len)
