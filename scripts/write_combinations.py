"""Train two steps of every combination of quantisation, adapter and way to train, and write the table of what works.

python scripts/write_combinations.py
"""

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
import yaml

from data.command import run_command
from data.errors import UserError, one_line
from data.processor_files import save_processor
from scripts.demo.scenes import film, random_scene
from train import sft
from train.model.build import random_model

PAGE = Path(__file__).parent.parent / "docs" / "combinations.md"
BEGIN, END = "<!-- combinations -->", "<!-- end of combinations -->"
WORKS, FAULT = "works", "fault: "

Settings = Mapping[str, object]
# Settings as a command line gives them. FOLDER stands for a folder of the attempt.
FOLDER = "FOLDER"
QUANTIZATIONS: dict[str, Settings] = {
    "none": {},
    **{name: {"model.quantization": name} for name in ("nf4", "fp4", "int8")},
}
ADAPTERS: dict[str, Settings] = {
    "LoRA": {},
    "DoRA": {"lora.use_dora": True},
    "rsLoRA": {"lora.use_rslora": True},
    "random B": {"lora.init_lora_weights": False},
    **{
        name: {"lora.init_lora_weights": name} for name in ("gaussian", "orthogonal", "olora", "pissa", "pissa_niter_2")
    },
    "modules_to_save": {"lora.modules_to_save": ["multi_modal_projector"]},
    "bias": {"lora.bias": "lora_only"},
    "decoder+projector": {"lora.target": "decoder+projector"},
    "DoRA, olora": {"lora.use_dora": True, "lora.init_lora_weights": "olora"},
}
WAYS: dict[str, Settings] = {
    "shared_prefix": {},
    "packing none": {"data.packing": "none"},
    "feature cache": {"data.feature_cache": f"{FOLDER}/features"},
    "checkpointing": {"training.gradient_checkpointing": True},
    # The graphs are those of any backend; inductor's C++ would take a minute each.
    "torch_compile": {"training.torch_compile": True, "training.torch_compile_backend": "eager"},
}


@dataclass(frozen=True)
class Combination:
    """One name of each axis."""

    quantization: str
    adapter: str
    way: str

    def settings(self) -> dict[str, object]:
        return {**QUANTIZATIONS[self.quantization], **ADAPTERS[self.adapter], **WAYS[self.way]}


def all_combinations() -> list[Combination]:
    return [Combination(q, adapter, way) for adapter in ADAPTERS for way in WAYS for q in QUANTIZATIONS]


def covering_combinations() -> list[Combination]:
    """Return few that hold every pair of names of two axes: each adapter in each way, the quantisations in turn."""
    names, found = list(QUANTIZATIONS), []
    for number, adapter in enumerate(ADAPTERS):
        quantizations = cycle(names[number % len(names) :] + names[: number % len(names)])
        found += [Combination(next(quantizations), adapter, way) for way in WAYS]
    return found


def write_run(folder: Path) -> Path:
    """Make a tiny model, two clips with two questions each and the recipe of two steps; return the recipe's path."""
    model, processor = random_model("tiny", torch.float32, seed=0)
    model.save_pretrained(folder / "base")
    save_processor(processor, folder / "base")
    records = []
    for number in range(2):
        film(random_scene(np.random.default_rng(number)), folder / f"{number}.mp4")
        for question, answer in {"What colour is it?": "red", "Which way does it move?": "left"}.items():
            turns = [{"from": "human", "value": f"<video>\n{question}"}, {"from": "gpt", "value": answer}]
            records.append({"video": f"{number}.mp4", "conversations": turns})
    (folder / "train.json").write_text(json.dumps(records))
    recipe = {
        "model": {"name_or_path": str(folder / "base"), "dtype": "float32"},
        "lora": {"r": 4, "alpha": 8},
        "data": {"train": [{"path": str(folder / "train.json")}], "max_length": 512, "max_tokens_per_row": 512}
        | {"rows_per_step": 1},
        "training": {"output_dir": str(folder / "out"), "max_steps": 2, "save_strategy": "no", "report_to": "none"}
        | {"disable_tqdm": True},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def attempt(recipe: Path, combination: Combination) -> str:
    """Train two steps; return "works" or the line that refuses it. Whatever else is raised is a fault of ours."""
    folder = recipe.parent
    out = Path(tempfile.mkdtemp(dir=folder))  # new for each: a process holds the lock of a run's folder to its end
    settings = {**combination.settings(), "training.output_dir": str(out)}
    overrides = [f"{key}={json.dumps(value)}".replace(FOLDER, str(folder)) for key, value in settings.items()]
    try:
        sft.main([str(recipe), *overrides])
    except UserError as refusal:
        return str(refusal)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    if not all(np.isfinite(line["loss"]) for line in lines if "loss" in line):
        raise AssertionError(f"{combination}: the loss is not finite")
    if not (out / "adapter_model.safetensors").is_file():
        raise AssertionError(f"{combination}: no adapter was saved")
    shutil.rmtree(out)
    return WORKS


def table(verdicts: Mapping[Combination, str]) -> str:
    """Return a line for each adapter and a column for each way, with the quantisations that are refused, and why."""
    reasons = list(dict.fromkeys(verdict for verdict in verdicts.values() if verdict != WORKS))
    lines = [f"| | {' | '.join(WAYS)} |", f"|{' --- |' * (len(WAYS) + 1)}"]
    for adapter in ADAPTERS:
        cells = [_cell({q: verdicts[Combination(q, adapter, way)] for q in QUANTIZATIONS}, reasons) for way in WAYS]
        lines.append(f"| {adapter} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"{number}. `{reason}`" for number, reason in enumerate(reasons, start=1))])


def _cell(verdicts: Mapping[str, str], reasons: Sequence[str]) -> str:
    refused = [f"{name} ({reasons.index(said) + 1})" for name, said in verdicts.items() if said != WORKS]
    return f"{WORKS}, but for {', '.join(refused)}" if refused else WORKS


def verdicts_of(combinations: Iterable[Combination], recipe: Path) -> dict[Combination, str]:
    verdicts = {}
    for combination in combinations:
        try:
            with redirect_stdout(StringIO()):
                verdicts[combination] = attempt(recipe, combination)
        except Exception as fault:  # whatever it is, the others are tried, too
            verdicts[combination] = f"{FAULT}{type(fault).__name__}: {one_line(fault)}"
        print(f"{combination}: {verdicts[combination]}", flush=True)
    return verdicts


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        verdicts = verdicts_of(all_combinations(), write_run(Path(folder)))
    if faults := [combination for combination, verdict in verdicts.items() if verdict.startswith(FAULT)]:
        raise UserError(f"nothing is written: {len(faults)} combinations neither work nor are refused: {faults}")
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{table(verdicts)}\n{END}{after}", encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    run_command(main)
