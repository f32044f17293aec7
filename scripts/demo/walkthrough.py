"""The demo from nothing to a merged model: make, train, merge, and ask before and after."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from data.files import write_whole
from data.sources.conversation import read_conversations
from data.sources.source import Source
from scripts.demo.base_model import make_demo
from train.merging.merge import merge_adapter
from train.model.load import quiet_libraries
from train.recipe.load import load_recipe
from train.results.artifact import open_artifact
from train.results.evaluation import evaluate, questions_of
from train.results.loading import load
from train.run_folder.evaluations import SCORES, evaluations

ROOT = Path(os.path.relpath(Path(__file__).parents[2]))  # as a user in this folder would type it
RECIPE = str(ROOT / "recipes" / "demo.yaml")
DEMO = Path("outputs/demo")  # as the recipe says
BATCH_SIZE = 50  # questions asked at once
MAX_NEW_TOKENS = 8  # the longest answer, "bottom right", has fewer


def run_demo(overrides: list[str]) -> None:
    """Run all steps, with overrides of the recipe, and write results.json."""
    start = time.perf_counter()
    recipe = load_recipe(RECIPE, overrides)
    quiet_libraries()
    shutil.rmtree(DEMO, ignore_errors=True)
    heading("1. Draw clips and teach a tiny Video-LLaVA colours, shapes and places")
    make_demo(DEMO)
    base, adapter, merged = recipe.model.name_or_path, recipe.dump()["training"]["output_dir"], DEMO / "merged"
    quantization = recipe.model.quantization
    heading("2. Ask it about clips that it has not seen")
    before, kept_before = score(base, "new", quantization), score(base, "easy", quantization)
    heading("3. Train an adapter: which way does it move?")
    train(overrides)
    heading("4. Ask the adapter the same questions")
    after, kept_after = score(adapter, "new", quantization), score(adapter, "easy", quantization)
    in_training = last_accuracy(adapter)
    heading("5. Merge the adapter into the base, and ask once more")
    merge_adapter(adapter, merged)
    once_more = score(merged, "new", None)
    results = {
        "accuracy_before": before["accuracy"],
        "accuracy_in_training": in_training,
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
    """Launch the command that a user would give, as a process of its own."""
    config, entry = ROOT / "accelerate_configs" / "cpu.yaml", ROOT / "train" / "sft.py"
    launch = ["launch", "--config_file", str(config), str(entry), RECIPE, *overrides]
    print("$ accelerate", *launch, flush=True)
    # The module instead of the command: the environment need not be activated.
    subprocess.run([sys.executable, "-m", "accelerate.commands.accelerate_cli", *launch], check=True)


def score(model: str | Path, questions: str, quantization: str | None) -> dict[str, Any]:
    """Ask the held-out questions "new" or "easy" and show the first; return what `evaluate` sums up."""
    artifact = open_artifact(str(model))
    loaded, processor = load(artifact, quantization=quantization)
    conversations = read_conversations(Source(DEMO / f"held_out_{questions}.json"))
    asked = [question for conversation in conversations for question in questions_of(conversation)]
    answers, summary = evaluate(
        loaded, processor, asked, num_frames=artifact.num_frames, batch_size=BATCH_SIZE, max_new_tokens=MAX_NEW_TOKENS
    )
    first = answers[0]
    print(f"{model}: {summary['accuracy']:.1%} of {summary['questions']} {questions} questions correct")
    print(f"  {first['media'][0]}  {first['question']}  {first['predicted']}  (expected: {first['expected']})")
    return summary


def last_accuracy(adapter: str) -> float | None:
    """Return and show what training said of the new questions at its end; None where its recipe asks none."""
    folders = evaluations(adapter)
    if not folders:
        return None
    accuracy = json.loads((folders[-1] / SCORES).read_text(encoding="utf-8"))["accuracy"]
    print(f"training said {accuracy:.1%} of the new questions")
    return accuracy


def heading(text: str) -> None:
    print(f"\n=== {text}", flush=True)


def show(results: dict[str, Any]) -> None:
    """Print the figures of results.json for a person."""
    heading(f"Done in {results['seconds']:.0f} s: {DEMO / 'results.json'}")
    print(f"which way does it move?  before {results['accuracy_before']:.1%}, after {results['accuracy_after']:.1%}, "
          f"merged {results['accuracy_merged']:.1%}")  # fmt: skip
    print(f"colour, shape, place     before {results['kept_before']:.1%}, after {results['kept_after']:.1%}")
