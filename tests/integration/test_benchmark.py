"""The real command on the tiny shape: what it reports is complete and true. How fast it is, no test can say."""

import json
import os
import sys
from argparse import Namespace
from pathlib import Path
from subprocess import PIPE
from types import SimpleNamespace

import pytest
import torch

from scripts.benchmarks import answers, loader
from scripts.benchmarks.gpu import Trained
from tests.warm import run_warm

ROOT = Path(__file__).parents[2]
KEYS = {
    *("case", "questions_per_clip", "ours_s", "plain_s", "hf_s", "ratio", "hf_ratio", "memory_ratio"),
    *("gradient_difference", "matmul_share", "tokens_ours", "tokens_plain", "token_limit", "spread", "shape"),
    *("threads", "torch", "machine"),
}


def benchmark(folder: Path, *command: str) -> tuple[list[dict], str]:
    """Return the rows that a case writes, and its output."""
    out = folder / "rows.json"
    printed = run_warm(
        [sys.executable, ROOT / "scripts/benchmark.py", *command, "--json", out],
        check=True,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stdout=PIPE,
        text=True,
    ).stdout
    return json.loads(out.read_text()), printed


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[dict]:
    command = ["--shape", "tiny", "--questions", "1", "6", "--mixed", "--repetitions", "1", "--threads", "1"]
    return benchmark(tmp_path_factory.mktemp("benchmark"), "train", *command)[0]


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


def test_either_attention_is_measured_on_clips_of_any_length(tmp_path):
    command = ["--shape", "tiny", "--questions", "3", "--frames", "4", "16", "--against", "flash"]
    rows, printed = benchmark(tmp_path, "train", *command, "--repetitions", "1", "--threads", "1")
    assert [row["frames"] for row in rows] == [4, 16] and "plain" not in printed
    short, long = rows
    for row in rows:
        assert row["flash_gradient_difference"] <= 1e-6
        assert row["flash_ratio"] == pytest.approx(row["flash_s"] / row["ours_s"])
        assert row["tokens_flash"] == row["tokens_ours"] and 0.7 < row["flash_memory_ratio"] < 1.3
        assert not {"plain_s", "hf_s", "ratio", "memory_ratio"} & row.keys()
    assert long["tokens_ours"] - short["tokens_ours"] == pytest.approx(12 * 17 / 3, abs=2)


def test_memory_is_that_of_the_tokens(rows):
    one, six, _ = rows
    assert 0.7 < one["memory_ratio"] < 1  # one of the tiny model's four layers leaves the clips out
    assert six["memory_questions"] == 4
    assert six["memory_ratio"] < 0.9  # the weights are in it, most of a tiny model's peak is theirs
    assert six["ours_peak_mib"] < six["plain_peak_mib"]


def test_loading_tells_the_memory_of_every_process(tmp_path):
    rows, printed = benchmark(tmp_path, "load", "--records", "400", "--questions-per-clip", "1", "--workers", "1")
    assert [(row["case"], row["records"], row["questions_per_clip"], row["start"]) for row in rows] == [
        ("load", 400, 1, "first"),
        ("load", 400, 1, "second"),
    ]
    row = rows[0]
    assert 400 * (8 * 17 + 10) < 8192 * row["packed_rows"] < 400 * 400  # 8 frames of 17 tokens, and a question
    assert row["ours_s"] == pytest.approx(row["load_s"] + row["fingerprint_s"] + row["batch_s"])
    base, now, (worker,) = row["base"], row["process"], row["workers"]
    for figures in (base, now, worker):
        assert 0 < figures["own"] <= figures["pss"] <= figures["rss"] <= figures["peak"]
        assert figures["anon"] < figures["rss"]
    assert base["peak"] <= now["peak"] and worker["own"] < now["anon"]
    assert printed.startswith("load    400 conversations, 1 a clip, ")


def test_decoding_compares_the_same_frames(tmp_path):
    command = ["--seconds", "4", "1", "--gop", "1", "--height", "90", "--rate", "12", "--repetitions", "2"]
    rows, printed = benchmark(tmp_path, "decode", *command)
    assert [(row["case"], row["clip_s"], row["clip_frames"]) for row in rows] == [("decode", 4, 48), ("decode", 1, 12)]
    for row in rows:
        assert row["difference"] == 0
        assert row["ratio"] == pytest.approx(row["plain_s"] / row["ours_s"])
        assert (row["torchcodec"] is None) == ("torchcodec_s" not in row)
        assert row.get("torchcodec_difference", 0) <= 8  # another FFmpeg may convert colours with another rounding
        for name in ("ours_s", "plain_s", "ratio"):
            low, high = row["spread"][name]
            assert 0 < low <= high
    assert len({line.count("|") for line in printed.splitlines()[1:]}) == 1 and len(printed.splitlines()) == 5


def test_scale_compares_two_processes_with_one(tmp_path):
    out = tmp_path / "scale.json"
    command = ["scale", "--shape", "tiny", "--steps", "1", "--repetitions", "1", "--json", out]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    run_warm([sys.executable, ROOT / "scripts/benchmark.py", *command], check=True, cwd=tmp_path, env=environment)
    (row,) = json.loads(out.read_text())
    assert (row["case"], row["processes"]) == ("scale", 2)
    assert row["ratio"] == pytest.approx(row["plain_s"] / row["ours_s"])
    assert row["efficiency"] == pytest.approx(row["ratio"] / 2)


def test_rows_that_do_not_fit_a_gpu_are_named_and_left_out(capsys):
    def too_large() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    model = torch.nn.Linear(2, 1)
    trained = SimpleNamespace(device="cpu", model=model)
    assert Trained._measure(trained, too_large, 3, "rows of 3 x 8") is None  # pyrefly: ignore[bad-argument-type]
    assert capsys.readouterr().out == "rows of 3 x 8 do not fit\n"
    measured = Trained._measure(trained, lambda: None, 3, "rows")  # pyrefly: ignore[bad-argument-type]
    assert measured is not None and 0 <= measured["spread"][0] <= measured["s"] <= measured["spread"][1]


def test_the_loader_reads_its_caches_and_decodes_nothing(capsys):
    rows = loader.run(Namespace(clips=3, seconds=1, workers=0, repetitions=2))
    assert [(row["case"], row["cache"], row["clips"]) for row in rows] == [
        ("loader", "frames", 3),
        ("loader", "features", 3),
    ]
    for row in rows:
        assert row["decoder_calls"] == 0
        assert row["ratio"] == pytest.approx(row["plain_s"] / row["ours_s"])
        for name in ("ours_s", "plain_s"):
            low, high = row["spread"][name]
            assert 0 < low <= row[name] <= high
    table = capsys.readouterr().out.splitlines()[-3:]
    assert [line.split("|")[1].strip() for line in table] == ["cold", "frames", "features"]


def test_answers_are_compared_in_three_ways(capsys):
    asked = {"shape": "tiny", "questions": [1, 5], "answer_tokens": [3], "clips": 1, "repetitions": 1}
    one, five = answers.run(Namespace(**asked, threads=1, seed=0))
    assert [(row["case"], row["questions_per_clip"], row["answer_tokens"]) for row in (one, five)] == [
        ("eval", 1, 3),
        ("eval", 5, 3),
    ]
    for row in (one, five):
        assert row["same_answers"] == row["same_answers_as_padded"] == 1
        assert row["plain_s"] == min(row["hf_s"], row["padded_s"])
        assert row["ratio"] == pytest.approx(row["plain_s"] / row["ours_s"])
        assert row["hf_ratio"] == pytest.approx(row["hf_s"] / row["ours_s"])
        assert row["questions_per_s"] == pytest.approx(1 / row["ours_s"])
        assert 0 < row["hf_first_s"] and 0 < row["ours_first_s"] and 0 < row["limit_s"]
    assert (one["compared_answers"], five["compared_answers"]) == (1, 4)
    assert one["memory_ratio"] == pytest.approx(1, rel=0.1)
    assert 0.8 < five["memory_ratio"] < 1.3
    assert five["flops_ratio"] > 2.5 > 1.1 > one["flops_ratio"]
    assert len(capsys.readouterr().out.splitlines()) == 4
