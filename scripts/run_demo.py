"""From nothing to a trained, merged and answering model, on a CPU, in a few minutes: what `make demo` runs.

    python scripts/run_demo.py [section.key=value ...]

Makes the demo's data and base (scripts/make_demo.py), trains recipes/demo.yaml on it by the usual command,
merges the adapter, asks all three models about clips that none has seen, and writes outputs/demo/results.json.
Overrides go to the recipe, such as model.quantization=nf4.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from data.command import run_command
from data.files import write_whole
from data.sources.conversation import read_conversations
from data.sources.source import Source
from scripts.make_demo import make_demo
from train.model.load import quiet_libraries
from train.recipe.load import load_recipe
from train.results.artifact import open_artifact
from train.results.evaluation import evaluate, questions_of
from train.results.loading import load
from train.results.merge import merge_adapter

RECIPE = "recipes/demo.yaml"
DEMO = Path("outputs/demo")  # as the recipe says
BATCH_SIZE = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="change the recipe for this run")
    run_demo(parser.parse_args().overrides)


def run_demo(overrides: list[str]) -> None:
    start = time.perf_counter()
    recipe = load_recipe(RECIPE, overrides)
    quiet_libraries()
    shutil.rmtree(DEMO, ignore_errors=True)
    heading("1. Draw clips and teach a tiny Video-LLaVA colours, shapes and places")
    make_demo(DEMO)
    base, adapter, merged = recipe.model.name_or_path, recipe.training["output_dir"], DEMO / "merged"
    quantization = recipe.model.quantization
    heading("2. Ask it about clips that it has not seen")
    before, kept_before = score(base, "new", quantization), score(base, "easy", quantization)
    heading("3. Train an adapter: which way does it move?")
    train(overrides)
    heading("4. Ask the adapter the same questions")
    after, kept_after = score(adapter, "new", quantization), score(adapter, "easy", quantization)
    heading("5. Merge the adapter into the base, and ask once more")
    merge_adapter(adapter, merged)
    once_more = score(merged, "new", None)
    results = {
        "accuracy_before": before["accuracy"],
        "accuracy_after": after["accuracy"],
        "accuracy_merged": once_more["accuracy"],
        "kept_before": kept_before["accuracy"],
        "kept_after": kept_after["accuracy"],
        "seconds": round(time.perf_counter() - start, 1),
        "questions": before["questions"] + kept_before["questions"],
        "packing": recipe.data.packing,
        "quantization": quantization,
    }
    write_whole(DEMO / "results.json", json.dumps(results, indent=2) + "\n")
    show(results)


def train(overrides: list[str]) -> None:
    launch = ["launch", "--config_file", "accelerate_configs/cpu.yaml", "train/sft.py", RECIPE, *overrides]
    print("$ accelerate", *launch, flush=True)
    # The module instead of the command: the environment need not be activated.
    subprocess.run([sys.executable, "-m", "accelerate.commands.accelerate_cli", *launch], check=True)


def score(model: str | Path, questions: str, quantization: str | None) -> dict:
    """Accuracy on the held-out questions "new" or "easy"; shows the first one and its answer."""
    artifact = open_artifact(str(model))
    loaded, processor = load(artifact, quantization=quantization)
    conversations = read_conversations(Source(DEMO / f"held_out_{questions}.json"))
    asked = [question for conversation in conversations for question in questions_of(conversation)]
    records, summary = evaluate(
        loaded, processor, asked, num_frames=artifact.num_frames, batch_size=BATCH_SIZE, max_new_tokens=8
    )
    first = records[0]
    print(f"{model}: {summary['accuracy']:.1%} of {summary['questions']} {questions} questions correct")
    print(f"  {first['media'][0]}  {first['question']}  {first['predicted']}  (expected: {first['expected']})")
    return summary


def heading(text: str) -> None:
    print(f"\n=== {text}", flush=True)


def show(results: dict) -> None:
    heading(f"Done in {results['seconds']:.0f} s: {DEMO / 'results.json'}")
    print(f"which way does it move?  before {results['accuracy_before']:.1%}, after {results['accuracy_after']:.1%}, "
          f"merged {results['accuracy_merged']:.1%}")  # fmt: skip
    print(f"colour, shape, place     before {results['kept_before']:.1%}, after {results['kept_after']:.1%}")


if __name__ == "__main__":
    run_command(main)
