"""Nothing hangs when ranks see different kinds of media, and the losses are those of one process."""

import json
from pathlib import Path

import pytest

from tests.distributed.adversarial import STEPS, train
from tests.launching import launch

# Every kind of row is the last of an epoch once in four; twice, because DeepSpeed goes by the order of earlier batches.
NUM_EPOCHS = 8


@pytest.fixture(scope="module")
def of_one_process(smallest_folder) -> list[float]:
    train(smallest_folder, smallest_folder / "one", NUM_EPOCHS)
    return losses(smallest_folder / "one")


def losses(out_dir: Path) -> list[float]:
    lines = [json.loads(line) for line in (out_dir / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("config", ["cpu_2", "zero2", "zero3"])
def test_no_rank_waits_for_another(config, smallest_folder, of_one_process, tmp_path):
    arguments = (smallest_folder, tmp_path / "two", NUM_EPOCHS)
    launch(config, "tests/distributed/adversarial.py", *arguments, folder=tmp_path)
    ours = losses(tmp_path / "two")
    assert len(ours) == NUM_EPOCHS * (len(STEPS) + 1)
    assert ours == pytest.approx(of_one_process, abs=1e-4)
    assert sum(ours[-16:]) < sum(ours[:16])  # four epochs, in which every kind is the last once
