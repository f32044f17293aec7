"""Through the whole trainer: packed = separate, accumulated = one large batch, resumed = unbroken."""

import json
import shutil
import traceback

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from data.batches.collator import PaddedCollator
from data.packing.dataset import single_sample_rows
from data.sources.source import Source
from data.tokens.corpus import load_corpus
from tests.short_run import write_recipe
from train.estimating import foresight
from train.estimating.gpus import Gpu
from train.loop.trainer import RowTrainer
from train.sft import main


@pytest.fixture
def recipe_file(model_folder, mixed_file, tmp_path):
    """One optimizer step over all of the mixed file: the change of the weights is the gradient."""
    training = {
        "max_steps": 1,
        "learning_rate": 1.0,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0,
        "logging_steps": 1,
    }
    return write_recipe(tmp_path, model_folder, mixed_file, {"dropout": 0.0}, {}, training)


def train(recipe_file, output_dir, *overrides) -> dict[str, torch.Tensor]:
    main([str(recipe_file), f"training.output_dir={output_dir}", *overrides])
    return load_file(output_dir / "adapter_model.safetensors")


def metrics(output_dir) -> list[dict]:
    return [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]


def relative_difference(ours, theirs) -> float:
    """Return the trained lora_B matrices, which start at zero, so that they are the gradient."""
    names = [name for name in ours if "lora_B" in name]
    difference = sum(((ours[name] - theirs[name]) ** 2).sum() for name in names)
    return float(difference**0.5 / sum((theirs[name] ** 2).sum() for name in names) ** 0.5)


SEPARATE = ("data.packing=none", "data.rows_per_step=16", "training.per_device_train_batch_size=16")


def test_accumulated_is_one_large_batch(recipe_file, tmp_path):
    large = train(recipe_file, tmp_path / "large", *SEPARATE)
    small = train(recipe_file, tmp_path / "small", *SEPARATE, "training.per_device_train_batch_size=2")
    assert relative_difference(small, large) <= 1e-5


def test_packed_rows_are_separate_samples(recipe_file, tmp_path):
    separate = train(recipe_file, tmp_path / "separate", *SEPARATE)
    packed = train(recipe_file, tmp_path / "packed", "data.rows_per_step=4")
    (line, *_), (theirs, *_) = metrics(tmp_path / "packed"), metrics(tmp_path / "separate")
    assert (line["questions"], line["clips"], line["pictures"]) == (16, 5, 4)
    assert theirs["clips"] == 13 and theirs["questions"] == 16
    assert line["supervised_tokens"] == theirs["supervised_tokens"]
    assert line["loss"] == pytest.approx(theirs["loss"], rel=1e-6)
    assert relative_difference(packed, separate) <= 1e-5


@pytest.mark.parametrize("setting", ["training.gradient_checkpointing=true", "lora.use_dora=true"])
def test_packed_rows_are_separate_samples_with(setting, recipe_file, tmp_path):
    separate = train(recipe_file, tmp_path / "separate", *SEPARATE, setting)
    packed = train(recipe_file, tmp_path / "packed", "data.rows_per_step=4", setting)
    assert relative_difference(packed, separate) <= 1e-5


def test_whatever_is_recomputed_trains_to_the_same_bits(recipe_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(foresight, "this_machine", lambda: Gpu("Abacus", 0.001))
    ways = {
        "nothing": [],
        "some": ["training.gradient_checkpointing=selective"],
        "auto": ["memory=auto"],  # too small a machine for anything: full
    }
    found = {name: train(recipe_file, tmp_path / name, "lora.dropout=0.1", *way) for name, way in ways.items()}
    said = capsys.readouterr().out
    assert "memory: auto takes training.gradient_checkpointing: true" in said
    assert "Abacus has 0.0 GiB: it may run out of memory" in said
    for name in ("some", "auto"):
        assert all(torch.equal(found[name][each], found["nothing"][each]) for each in found["nothing"]), name
    assert any(found["nothing"][each].any() for each in found["nothing"] if "lora_B" in each)


@pytest.mark.parametrize(
    ("setting", "tolerance"),
    [("model.dtype=bfloat16", 0.1), ("model.quantization=nf4", 1e-3)],
)
def test_packed_rows_are_separate_samples_loosely_with(setting, tolerance, recipe_file, tmp_path):
    separate = train(recipe_file, tmp_path / "separate", *SEPARATE, setting)
    packed = train(recipe_file, tmp_path / "packed", "data.rows_per_step=4", setting)
    assert relative_difference(packed, separate) <= tolerance


@pytest.mark.parametrize("packing", ["shared_prefix", "none"])
def test_resumed_is_unbroken(packing, recipe_file, tmp_path):
    settings = (
        f"data.packing={packing}",
        "data.frame_sampling=jitter",
        "data.rows_per_step=3",
        "lora.dropout=0.1",
        "training.max_steps=9",
        "training.save_steps=4",
        "training.save_total_limit=9",
        "training.optim=adamw_torch",
        "training.learning_rate=1e-3",
        "training.lr_scheduler_type=cosine",
    )
    unbroken = train(recipe_file, tmp_path / "unbroken", *settings)
    shutil.copytree(tmp_path / "unbroken" / "checkpoint-4", tmp_path / "resumed" / "checkpoint-4")
    (tmp_path / "resumed" / "checkpoint-8").mkdir()  # unsound: moved aside
    shutil.copy(tmp_path / "unbroken" / "metrics.jsonl", tmp_path / "resumed")
    resumed = train(recipe_file, tmp_path / "resumed", *settings)
    assert unbroken.keys() == resumed.keys()
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)
    columns = ("step", "loss", "grad_norm", "learning_rate", "questions")
    ours, theirs = (
        [[line.get(column) for column in columns] for line in metrics(tmp_path / name) if "loss" in line]
        for name in ("resumed", "unbroken")
    )
    assert ours == theirs and len(ours) == 9


def test_a_mixed_batch_is_its_samples_alone(model, processor, visual_tokens, mixed_file):
    samples = load_corpus([Source(mixed_file)], processor.tokenizer, visual_tokens, 512).samples
    rows = single_sample_rows(samples, visual_tokens, seed=0)
    picked = [rows[[index]] for index in (0, 12, 13, 14, 15)]  # clip, picture, two pictures, both, text
    collator = PaddedCollator(processor, visual_tokens)

    def logits(batch):
        inputs = {name: value for name, value in collator(batch).items() if name not in ("labels", "counts")}
        with torch.no_grad():
            return model(**inputs).logits

    together = logits(picked)
    for number, row in enumerate(picked):
        alone = logits([row])[0]
        assert (together[number, : len(alone)] - alone).abs().max() <= 1e-5 * alone.abs().max()


def test_evaluation_loss_is_the_mean_over_tokens(recipe_file, mixed_file, tmp_path):
    settings = (f"data.eval=[{{path: {mixed_file}}}]", "training.eval_strategy=steps", "training.learning_rate=1e-9")
    train(recipe_file, tmp_path / "packed", "data.rows_per_step=4", *settings)
    train(recipe_file, tmp_path / "separate", *SEPARATE, *settings)
    losses = {
        name: [line for line in metrics(tmp_path / name) if "eval_loss" in line][0]["eval_loss"]
        for name in ("packed", "separate")
    }
    first_step = metrics(tmp_path / "separate")[0]["loss"]
    assert losses["packed"] == pytest.approx(losses["separate"], rel=1e-5)
    assert losses["separate"] == pytest.approx(first_step, rel=1e-5)


@pytest.mark.parametrize("quantization", ["null", "nf4", "fp4", "int8"])
def test_an_evaluation_leaves_no_trace(recipe_file, mixed_file, tmp_path, quantization):
    """bitsandbytes has kernels for inference alone, with weights of another layout and without a gradient."""
    settings = (f"model.quantization={quantization}", "training.max_steps=3", "training.learning_rate=1e-2")
    evaluation = (f"data.eval=[{{path: {mixed_file}}}]", "training.eval_strategy=steps", "training.eval_steps=1")
    without = train(recipe_file, tmp_path / "without", *settings)
    evaluated = train(recipe_file, tmp_path / "evaluated", *settings, *evaluation)
    assert [line["loss"] for line in metrics(tmp_path / "without") if "loss" in line] == [
        line["loss"] for line in metrics(tmp_path / "evaluated") if "loss" in line
    ]
    assert sum("eval_loss" in line for line in metrics(tmp_path / "evaluated")) == 3
    assert all(torch.equal(without[name], evaluated[name]) for name in without)


def test_weights_of_two_sources(recipe_file, mixed_file, tmp_path):
    """An epoch has each conversation of one source twice and each of the other once; resumed is unbroken."""
    sources = f"data.train=[{{path: {mixed_file}, weight: 2}}, {{path: {mixed_file}}}]"
    settings = (sources, "data.packing=none", "data.rows_per_step=12", "training.max_steps=4", "training.save_steps=2")
    settings += ("training.learning_rate=1e-3", "lora.dropout=0.1", "training.save_total_limit=9")
    settings += ("training.per_device_train_batch_size=6",)
    unbroken = train(recipe_file, tmp_path / "unbroken", *settings)
    assert sum(line["questions"] for line in metrics(tmp_path / "unbroken")[:4]) == 3 * 16
    shutil.copytree(tmp_path / "unbroken" / "checkpoint-2", tmp_path / "resumed" / "checkpoint-2")
    resumed = train(recipe_file, tmp_path / "resumed", *settings)
    assert all(torch.equal(unbroken[name], resumed[name]) for name in unbroken)


class Waits(TorchDispatchMode):
    """Counts what a GPU would have to be waited for, with nothing to compute meanwhile, by the module that asks."""

    ASKING = {"aten._local_scalar_dense.default", "aten.nonzero.default", "aten.is_nonzero.default"}

    def __init__(self):
        super().__init__()
        self.asked: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if str(func) in self.ASKING:
            frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_stack(None)]
            self.asked.append(next(name for name in frames if not name.startswith(("torch", __name__))))
        return func(*args, **kwargs or {})


def test_rows_of_a_step_wait_for_nothing(recipe_file, tmp_path, monkeypatch):
    """transformers' model compares the number of placeholders with that of features, and writes it into a message that
    nobody sees: twice for pictures and twice for clips, in the first row that has some and in no other. Loss and
    gradients are looked at once a step, behind its last row."""
    waits, step, of_rows = Waits(), RowTrainer.training_step, []

    def watched(*arguments, **named):
        before = len(waits.asked)
        with waits:
            loss = step(*arguments, **named)
        of_rows.append(len(waits.asked) - before)
        return loss

    monkeypatch.setattr(RowTrainer, "training_step", watched)
    train(recipe_file, tmp_path / "out", "data.rows_per_step=4", "training.max_steps=3")
    of_placeholders = {"transformers.models.video_llava.modeling_video_llava", "transformers.utils.import_utils"}
    assert set(waits.asked) == of_placeholders and len(of_rows) == 3 * 3
    assert of_rows[0] == 4 and not any(of_rows[1:])
