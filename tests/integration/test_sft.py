"""The real command on the CPU: what it prints, writes and continues; full fine-tuning; the projector's own rate."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import TrainingArguments, VideoLlavaForConditionalGeneration

from data.tokens.encoding import IGNORE_INDEX
from data.video_llava import PROJECTOR
from tests.warm import run_warm
from train.loop.loss import token_loss
from train.loop.trainer import RowTrainer
from train.model.adapters import add_adapter
from train.progress.curves import NAMES
from train.recipe.load import load_recipe
from train.sft import main

ROOT = Path(__file__).parents[2]
FIGURES = (
    "loss grad_norm learning_rate supervised_tokens questions clips pictures data_wait_s save_s step_s samples_per_s "
    "supervised_tokens_per_s peak_memory_mib"
).split()


@pytest.fixture
def recipe_file(model_folder, mixed_file, tmp_path):
    recipe = {
        "model": {"name_or_path": str(model_folder), "dtype": "float32"},
        "lora": {"r": 4, "alpha": 8},
        "data": {
            "train": [{"path": str(mixed_file)}],
            "eval": [{"path": str(mixed_file)}],
            "max_length": 512,
            "max_tokens_per_row": 512,
            "rows_per_step": 2,
        },
        "training": {
            "output_dir": str(tmp_path / "out"),
            "max_steps": 2,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "eval_strategy": "steps",
            "save_steps": 1,
        },
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def launch(*arguments, cwd):
    config = ROOT / "accelerate_configs" / "cpu.yaml"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    command += [str(ROOT / "train" / "sft.py"), *map(str, arguments)]
    return run_warm(command, capture_output=True, text=True, cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_the_command_trains_and_the_same_command_continues(recipe_file, tmp_path, capsys):
    first = launch(recipe_file, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "16 tokens a picture, 136 a clip" in first.stdout
    assert "16 conversations in 3 rows" in first.stdout
    assert "trained: 20,480 of 853,248 parameters (2.40%)" in first.stdout
    whole = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("adapter*")}
    for lost in [tmp_path / "out" / "checkpoint-2" / "optimizer.pt", *(tmp_path / "out").glob("adapter*")]:
        lost.unlink()
    capsys.readouterr()
    main([str(recipe_file)])
    second = capsys.readouterr().out
    assert "continuing from" in second and "checkpoint-1" in second
    assert "checkpoint-2: optimizer.pt is missing; moved to" in second

    out = tmp_path / "out"
    assert {path.name: path.read_bytes() for path in out.glob("adapter*")} == whole
    assert load_recipe(out / "recipe.yaml") == load_recipe(recipe_file)
    assert json.loads((out / "adapter_config.json").read_text())["r"] == 4
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2]
    assert all(set(FIGURES) <= line.keys() for line in steps)
    assert all("eval_loss" in line for line in lines if line.keys() & {"eval_runtime"})
    (folder,) = {path.parent for path in out.rglob("events.out.tfevents*")}
    events = EventAccumulator(str(folder)).Reload()
    assert {NAMES[name] for name in (*FIGURES, "eval_loss")} <= set(events.Tags()["scalars"])
    assert [(event.step, event.value) for event in events.Scalars("loss/train")] == [
        (line["step"], pytest.approx(line["loss"])) for line in steps
    ]
    assert Image.open(out / "loss.png").size == (960, 540)
    assert "Trained for 2 steps." in (out / "report.html").read_text(encoding="utf-8")
    for name in ("tokenizer.json", "processor_config.json", "chat_template.jinja", "adapter_model.safetensors"):
        assert (out / name).is_file()


@pytest.mark.parametrize("trainable", ["projector", "all"])
def test_full_fine_tuning_changes_what_it_names_and_nothing_else(trainable, recipe_file, model_folder, tmp_path):
    main([str(recipe_file), "lora=null", f"model.trainable={trainable}", "data.eval=[]", "training.eval_strategy=no"])
    before, after = (load_file(folder / "model.safetensors") for folder in (model_folder, tmp_path / "out"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    if trainable == "projector":
        assert changed == {name for name in before if PROJECTOR in name}
    else:
        for part in ("image_tower", "video_tower", PROJECTOR, "language_model"):
            assert any(part in name for name in changed), part
    VideoLlavaForConditionalGeneration.from_pretrained(tmp_path / "out")


def test_a_trained_projector_has_its_own_learning_rate(model, tmp_path):
    wrapped = add_adapter(model, r=4, alpha=8, dropout=0.0, modules_to_save=[PROJECTOR])
    args = TrainingArguments(output_dir=str(tmp_path), learning_rate=2e-4, weight_decay=0.1, use_cpu=True)
    trainer = RowTrainer(model=wrapped, args=args, projector_learning_rate=2e-5)
    groups = trainer.create_optimizer().param_groups
    rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    decays = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    trained = {name: parameter for name, parameter in wrapped.named_parameters() if parameter.requires_grad}
    assert len(rates) == len(trained)
    for name, parameter in trained.items():
        assert rates[id(parameter)] == (2e-5 if PROJECTOR in name else 2e-4)
        assert decays[id(parameter)] == (0.0 if name.endswith("bias") else 0.1)


def test_frozen_towers_keep_no_autograd_state(recipe_file, monkeypatch, tmp_path):
    from train import sft

    seen = {}

    def watch(name):
        def keep(module, inputs, output):
            seen[name] = output

        return keep

    def load_and_watch(*arguments, load=sft.load_trainable):
        model = load(*arguments)
        for name, module in model.named_modules():
            if name.endswith(("image_tower", "video_tower", PROJECTOR)):
                module.register_forward_hook(watch(name))
        return model

    monkeypatch.setattr(sft, "load_trainable", load_and_watch)
    main([str(recipe_file), "training.gradient_checkpointing=true", "training.max_steps=1", "data.rows_per_step=4"])
    assert len(seen) == 3
    for output in seen.values():
        tensors = (
            [output] if torch.is_tensor(output) else [value for value in output.values() if torch.is_tensor(value)]
        )
        assert tensors and not any(tensor.requires_grad for tensor in tensors)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_logits_are_of_labelled_positions_and_wide_before_the_loss(dtype, recipe_file, monkeypatch, tmp_path):
    """Check what `token_loss` says of Accelerate: it widens all logits that it sees, and sees none without a label."""
    seen = []

    def watched(logits, targets, num_items):
        seen.append((logits.dtype, logits.shape[1], int((targets != IGNORE_INDEX).sum())))
        return token_loss(logits, targets, num_items)

    monkeypatch.setattr("train.loop.trainer.token_loss", watched)
    main([str(recipe_file), "training.max_steps=1", f"model.dtype={dtype}", f"training.output_dir={tmp_path}/once"])
    assert seen and all(kind == torch.float32 and number == labelled for kind, number, labelled in seen)
