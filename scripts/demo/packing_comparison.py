"""The demo trained with packed rows and with single samples: accuracy and seconds of both."""

import json
import statistics
import time
from collections.abc import Sequence
from typing import Any

from data.errors import UserError
from scripts.demo.walkthrough import DEMO, score, train
from train.run_folder.metrics import METRICS_FILE

BATCH_SIZE = 8  # single samples in a padded batch


def compare_packing(seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Train with either packing for each seed; return the figures of each run.

    Raises UserError where the demo's data and base are missing.
    """
    if not (DEMO / "train.json").is_file():
        raise UserError(f"{DEMO} has no train.json: run `make demo` or scripts/make_demo.py {DEMO} first")
    runs = []
    for seed in seeds:
        runs.append(run("shared_prefix", seed))
        runs.append(run("none", seed, single_samples(runs[-1]["questions_per_step"])))
    return runs


def run(packing: str, seed: int, settings: tuple[str, ...] = ()) -> dict[str, Any]:
    """Train once and ask the held-out questions; `seconds` are those of the training command."""
    output_dir = DEMO / f"packing_{packing}_{seed}"
    start = time.perf_counter()
    train([f"training.seed={seed}", f"training.output_dir={output_dir}", "resume=never", *settings])
    seconds = time.perf_counter() - start
    steps = [json.loads(line) for line in (output_dir / METRICS_FILE).read_text().splitlines()]
    return {
        "packing": packing,
        "seed": seed,
        "accuracy": score(output_dir, "new", None)["accuracy"],
        "kept": score(output_dir, "easy", None)["accuracy"],
        "seconds": seconds,
        "questions_per_step": statistics.mean(step["questions"] for step in steps if "questions" in step),
    }


def single_samples(questions_per_step: float) -> tuple[str, ...]:
    """Return overrides for single samples, about as many in a step as a packed row had questions."""
    rows_per_step = BATCH_SIZE * max(1, round(questions_per_step / BATCH_SIZE))
    return (
        "data.packing=none",
        f"data.rows_per_step={rows_per_step}",
        f"training.per_device_train_batch_size={BATCH_SIZE}",
    )


def describe(packing: str, runs: Sequence[dict[str, Any]]) -> str:
    """Return a line of the README's table: accuracies by seed, then the median seconds."""
    chosen = [run for run in runs if run["packing"] == packing]
    accuracies, kept = (", ".join(f"{run[name]:.1%}" for run in chosen) for name in ("accuracy", "kept"))
    return f"| {packing} | {accuracies} | {kept} | {statistics.median(run['seconds'] for run in chosen):.0f} s |"
