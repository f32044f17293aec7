"""The real command on the tiny shape: what it reports is complete and true. How fast it is, no test can say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KEYS = {
    *("case", "questions_per_clip", "ours_s", "plain_s", "hf_s", "ratio", "hf_ratio", "memory_ratio"),
    *("gradient_difference", "matmul_share", "tokens_ours", "tokens_plain", "token_limit", "spread", "shape"),
    *("threads", "torch", "machine"),
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[dict]:
    out = tmp_path_factory.mktemp("benchmark") / "rows.json"
    command = ["train", "--shape", "tiny", "--questions", "1", "6", "--mixed", "--repetitions", "1", "--threads", "1"]
    subprocess.run(
        [sys.executable, ROOT / "scripts/benchmark.py", *command, "--json", out],
        check=True,
        cwd=out.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    return json.loads(out.read_text())


def test_a_row_for_each_case_with_the_promised_keys(rows):
    assert [(row["case"], row["questions_per_clip"]) for row in rows] == [("train", 1), ("train", 6), ("mixed", 1)]
    for row in rows:
        assert KEYS <= row.keys()
        assert row["ratio"] == pytest.approx(row["plain_s"] / row["ours_s"])
        assert row["hf_ratio"] == pytest.approx(row["hf_s"] / row["ours_s"])
        low, high = row["spread"]["ours_s"]
        assert 0 < low <= row["ours_s"] <= high


def test_all_ways_have_the_same_gradients(rows):
    for row in rows:
        assert row["gradient_difference"] <= 1e-5
        assert row["hf_gradient_difference"] <= 1e-5


def test_a_clip_is_in_a_row_once(rows):
    one, six, mixed = rows
    clip = 8 * 17  # 8 frames of 4 x 4 patches and a class token
    assert clip < one["tokens_ours"] == pytest.approx(one["tokens_plain"], rel=0.05)
    assert clip / 6 < six["tokens_ours"] < clip / 6 + 30
    assert six["token_limit"] == pytest.approx(six["tokens_plain"] / six["tokens_ours"])
    assert mixed["token_limit"] > 1


def test_memory_is_that_of_the_tokens(rows):
    one, six, _ = rows
    assert one["memory_ratio"] == pytest.approx(1, abs=0.1)
    assert six["memory_questions"] == 4
    assert six["memory_ratio"] < 0.9  # the weights are in it, most of a tiny model's peak is theirs
    assert six["ours_peak_mib"] < six["plain_peak_mib"]


def test_scale_compares_two_processes_with_one(tmp_path):
    out = tmp_path / "scale.json"
    command = ["scale", "--shape", "tiny", "--steps", "1", "--repetitions", "1", "--json", out]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, ROOT / "scripts/benchmark.py", *command], check=True, cwd=tmp_path, env=environment)
    (row,) = json.loads(out.read_text())
    assert (row["case"], row["processes"]) == ("scale", 2)
    assert row["ratio"] == pytest.approx(row["plain_s"] / row["ours_s"])
    assert row["efficiency"] == pytest.approx(row["ratio"] / 2)
