"""The demo's recipe with packed rows and with single samples, over several seeds: the same skill, in less time.

    python scripts/compare_packing.py [--seeds 0 1 2] [--json F]

Needs what `make demo` (or scripts/make_demo.py outputs/demo) has left in outputs/demo. With `packing: none` a step has
as many questions as a packed row has on average, so that both see the same number of questions.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

from data.command import run_command
from data.errors import UserError
from data.files import write_whole
from scripts.run_demo import DEMO, score, train
from train.model.load import quiet_libraries
from train.run_folder.metrics import METRICS_FILE

BATCH_SIZE = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path, help="write a row for each run")
    arguments = parser.parse_args()
    if not (DEMO / "train.json").is_file():
        raise UserError(f"{DEMO} has no train.json: run `make demo` or scripts/make_demo.py {DEMO} first")
    quiet_libraries()
    rows = []
    for seed in arguments.seeds:
        rows.append(run("shared_prefix", seed))
        rows.append(run("none", seed, single_samples(rows[-1]["questions_per_step"])))
    if arguments.json:
        write_whole(arguments.json, json.dumps(rows, indent=2) + "\n")
    for packing in ("shared_prefix", "none"):
        print(describe(packing, [row for row in rows if row["packing"] == packing]))


def run(packing: str, seed: int, settings: tuple[str, ...] = ()) -> dict:
    """Train once and ask the held-out questions; `seconds` are those of the training command."""
    output_dir = DEMO / f"packing_{packing}_{seed}"
    start = time.perf_counter()
    train([f"training.seed={seed}", f"training.output_dir={output_dir}", "resume=never", *settings])
    seconds = time.perf_counter() - start
    lines = [json.loads(line) for line in (output_dir / METRICS_FILE).read_text().splitlines()]
    return {
        "packing": packing,
        "seed": seed,
        "accuracy": score(output_dir, "new", None)["accuracy"],
        "kept": score(output_dir, "easy", None)["accuracy"],
        "seconds": seconds,
        "questions_per_step": statistics.mean(line["questions"] for line in lines if "questions" in line),
    }


def single_samples(questions_per_step: float) -> tuple[str, ...]:
    """Overrides for single samples, about as many in a step as the packed row had questions."""
    rows_per_step = BATCH_SIZE * max(1, round(questions_per_step / BATCH_SIZE))
    return (
        "data.packing=none",
        f"data.rows_per_step={rows_per_step}",
        f"training.per_device_train_batch_size={BATCH_SIZE}",
    )


def describe(packing: str, rows: list[dict]) -> str:
    """A row of the README's table: accuracies of the seeds, then the median seconds."""
    accuracies, kept = (", ".join(f"{row[name]:.1%}" for row in rows) for name in ("accuracy", "kept"))
    return f"| {packing} | {accuracies} | {kept} | {statistics.median(row['seconds'] for row in rows):.0f} s |"


if __name__ == "__main__":
    run_command(main)
