"""The estimate: counted on shapes, equal to what is counted another way, honest about what it does not know."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from bitsandbytes.functional import name2qmap
from torch import nn

from data.errors import UserError
from data.processor import load_config, set_up_processor
from train.commands.app import run
from train.estimating import foresight
from train.estimating.fit import as_overrides, fewest, possible_changes
from train.estimating.foresight import chosen, foreseen
from train.estimating.gpus import GIB, GPUS, Gpu, find_gpu, fits, gpu_at_hand, seconds, slack
from train.estimating.ledger import Ledger, attention_flops
from train.estimating.model_shapes import meta_model
from train.estimating.need import Need, count, layers_are_alike
from train.estimating.shapes import Shapes
from train.estimating.situation import (
    BaseFacts,
    RowsOfData,
    assumed,
    describe_row,
    look_at_base,
    look_at_data,
    situation,
)
from train.estimating.weights import count_weights, make_optimizer
from train.jobs import estimate as jobs_estimate
from train.model.build import SHAPES, build_config
from train.recipe.recipe import Recipe
from train.recipe.recomputation import LEAST_FIRST
from train.recipe.training_arguments import build_training_arguments, device_defaults


def recipe_of(model_folder: Path, **sections) -> Recipe:
    given = {
        "model": {"name_or_path": str(model_folder), "dtype": "float32", **sections.pop("model", {})},
        "lora": sections.pop("lora", {"r": 8, "alpha": 16}),
        "data": {"train": [{"path": "none.json"}], "max_tokens_per_row": 512, **sections.pop("data", {})},
        "training": {"output_dir": "none", "report_to": "none", **sections.pop("training", {})},
    }
    return Recipe.model_validate(given)


@pytest.fixture(scope="module")
def model_folder(shallow_folder) -> Path:
    return shallow_folder


@pytest.fixture
def base(model_folder):
    processor, visual_tokens, _ = set_up_processor(str(model_folder), num_frames=8)
    return BaseFacts(load_config(str(model_folder)), processor, visual_tokens, (), is_here=True)


def need_of(recipe: Recipe, base: BaseFacts, on_gpu: bool = True) -> Need:
    return count(recipe, situation(recipe, base, assumed(recipe, base, None), on_gpu))


def test_a_ledger_knows_what_lives_and_the_most_that_lived():
    ledger = Ledger("made", on_gpu=False)
    with Shapes(ledger.watch):
        first = torch.zeros(10, 10)  # 400 bytes
        second = first * 2
        view = second.t()
        del second
        assert ledger.live["made"] == 800  # the view keeps it
        del view
        third = first.half()
        assert ledger.live["made"] == 600
        ledger.move([third], "other")
    assert (ledger.live["made"], ledger.live["other"], ledger.peaks["start"].total()) == (400, 200, 800)


def test_a_gpu_keeps_the_mask_of_a_dropout_in_bytes():
    kept = {}
    for on_gpu in (False, True):
        ledger = Ledger("made", on_gpu)
        with Shapes(ledger.watch):
            states = torch.zeros(100, requires_grad=True)
            before = ledger.total
            dropped = nn.functional.dropout(states, 0.5)
            kept[on_gpu] = ledger.total - before
            del dropped
    assert kept == {False: 800, True: 500}  # the output, and the mask for the backward pass


def test_whole_numbers_stay_real():
    with Shapes():
        labels = torch.full((1, 4), -100)
        labels[0, 2] = 7
        assert (labels != -100).nonzero().tolist() == [[0, 2]]


def test_attention_is_counted_by_the_pairs_that_see_each_other(visual_tokens):
    from data.packing.layout import RowLayout, dense_mask, suffix_positions

    layout = RowLayout(((5, (2, 3)), (4, ()), (0, (3,))))
    mask, suffixes = dense_mask(layout), suffix_positions(layout)  # the last layer asks with suffixes alone
    pairs = 2 * int(mask.sum()) + int(mask[suffixes].sum())
    assert attention_flops(layout, width=8, num_layers=3) == 4 * 8 * pairs


def test_weights_of_7b_are_those_of_the_published_model(processor):
    """One decoder layer of LLaMA 7B: 4 matrices of 4096 x 4096 and 3 of 4096 x 11008."""
    matrices = 4 * 4096**2 + 3 * 4096 * 11008
    config = build_config("7b", processor.tokenizer)
    recipe = recipe_of(Path("none"), model={"dtype": "bfloat16", "quantization": "nf4"}, lora={"r": 128, "alpha": 256})
    weights = count_weights(meta_model(recipe, config, 1, on_gpu=True))
    assert weights["decoder, nf4"] == matrices // 2
    # A byte for each 64 weights and 4 for each 256 of these; tables of 16 and 256 numbers and an offset a matrix.
    scales = matrices // 64 + 4 * (matrices // 64 // 256)
    assert scales <= weights["scales of the quantised weights"] <= scales + 7 * (4 * (16 + 256) + 4)
    assert weights["trained, float32"] == 4 * 128 * (4 * 2 * 4096 + 3 * (4096 + 11008))
    assert weights["embeddings and head, bfloat16"] == 2 * 2 * 32064 * 4096
    whole = recipe_of(Path("none"), model={"dtype": "bfloat16"}, lora={"r": 8, "alpha": 8})
    assert count_weights(meta_model(whole, config, 1, on_gpu=True))["decoder, bfloat16"] == 2 * (matrices + 3 * 4096)


def test_few_layers_say_what_many_need(model_folder, base, monkeypatch):
    base.config.text_config.num_hidden_layers = 5
    recipe = recipe_of(model_folder, training={"gradient_checkpointing": True}, data={"max_tokens_per_row": 280})
    from_few = need_of(recipe, base)
    monkeypatch.setattr("train.estimating.need.layers_are_alike", lambda recipe, config: False)
    assert from_few == need_of(recipe, base)


def test_patterns_that_pick_layers_are_counted_in_full(base, model_folder):
    assert layers_are_alike(recipe_of(model_folder), base.config)
    some = recipe_of(model_folder, lora={"target": r".*language_model\.layers\.1\..*q_proj"})
    assert not layers_are_alike(some, base.config)


def test_what_a_recipe_saves_is_seen(model_folder, base):
    plain = need_of(recipe_of(model_folder), base)
    spared = {
        "data": {"feature_cache": "none"},
        "training": {"gradient_checkpointing": True, "optim": "paged_adamw_8bit"},
    }
    sparing = need_of(recipe_of(model_folder, **spared), base)
    assert sparing.peak < 0.8 * plain.peak
    assert not any(name.startswith("towers") for name in sparing.weights)
    assert plain.states == 2 * plain.weights["trained, float32"] + 4 * 28  # AdamW's two, and the number of steps
    assert sparing.is_paged and sparing.states < plain.states


def test_an_estimate_leaves_bitsandbytes_as_it_was(model_folder, base):
    """Its table for scales is made once, on the device of the first weight."""
    recipe = recipe_of(model_folder, model={"quantization": "nf4"})
    meta_model(recipe, base.config, 1, on_gpu=True)
    assert name2qmap["dynamic"].device.type == "cpu"


def test_assumed_rows_are_as_full_as_the_recipe_lets_them_be(model_folder, base):
    recipe = recipe_of(model_folder, data={"max_tokens_per_row": 1000})
    (row,) = assumed(recipe, base, None).largest
    lengths = [group.prefix_length + sum(group.suffix_lengths) for group, _ in row]
    assert 900 < sum(lengths) <= 1000 and len(lengths) == 1000 // (136 + 4 + 8 * 16)
    assert describe_row(assumed(recipe, base, 5), base.visual_tokens).startswith("4 clips, 20 conversations")
    samples = recipe_of(model_folder, data={"packing": "none"}, training={"per_device_train_batch_size": 3})
    assert len(assumed(samples, base, None).largest) == 3


def test_the_largest_row_is_that_of_the_data(model_folder, base, mixed_file):
    recipe = recipe_of(model_folder, data={"train": [{"path": str(mixed_file), "outside_media_root": True}]})
    rows = look_at_data(recipe, base, seed=0)
    assert isinstance(rows, RowsOfData) and rows.number and 0 < rows.share <= 1
    assert "none.json" in look_at_data(recipe_of(model_folder), base, seed=0)


def test_gpus_have_names_and_sizes():
    assert find_gpu("h100") is GPUS["H100"] and find_gpu("RTX 4090") is find_gpu("4090") is GPUS["RTX4090"]
    assert find_gpu("24GB").memory == pytest.approx(24e9 / GIB) and find_gpu("24GiB").memory == 24
    with pytest.raises(UserError, match="--gpu: unknown 'abacus'; give a size such as 24GB, or one of T4"):
        find_gpu("abacus")


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("NVIDIA L40", None),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA A10G", None),
        ("NVIDIA RTX A1000 Laptop GPU", None),
        ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
    ],
)
def test_a_gpu_has_the_speed_of_its_own_kind(name, known, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    about = SimpleNamespace(name=name, total_memory=48 * GIB)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: about)
    speeds = (GPUS[known].tflops, GPUS[known].bandwidth) if known else (None, None)
    assert gpu_at_hand() == Gpu(name, 48, *speeds)


def test_a_gpu_fits_with_room_around_the_peak(model_folder, base):
    need = need_of(recipe_of(model_folder), base)
    assert need.peak < 0.1 * GIB and not fits(need, Gpu("small", 0.5)) and fits(need, Gpu("large", 1))
    slow, fast = (seconds(need, GPUS[name], is_quantised=False) for name in ("T4", "H200"))
    assert slow >= fast > 0 and seconds(need, Gpu("24GB", 22), is_quantised=False) is None


def test_the_fewest_changes_that_fit():
    changes = [{"a": 1}, {"b": 2}, {"c": 3}]
    assert fewest(changes, lambda change: {"b"} <= change.keys()) == {"b": 2}
    assert fewest(changes, lambda change: {"a", "c"} <= change.keys()) == {"a": 1, "c": 3}
    assert fewest(changes, lambda change: False) is None and fewest([], lambda change: True) is None


def test_changes_are_those_that_the_recipe_has_not_made(model_folder):
    made = recipe_of(
        model_folder,
        model={"quantization": "nf4"},
        training={"gradient_checkpointing": True, "optim": "paged_adamw_8bit", "per_device_train_batch_size": 1},
    )
    assert possible_changes(made, longest_row=512) == []
    (first, *_) = possible_changes(recipe_of(model_folder), longest_row=512)
    assert as_overrides(first) == ["training.gradient_checkpointing=selective"]
    partly = recipe_of(model_folder, training={"gradient_checkpointing": "selective"})
    assert as_overrides(possible_changes(partly, longest_row=512)[0]) == ["training.gradient_checkpointing=true"]
    left_open = possible_changes(Recipe.model_validate(partly.recomputing("none").dump() | {"memory": "auto"}), 512)
    assert not any("gradient_checkpointing" in key for change in left_open for key in change)


def test_what_is_recomputed_is_counted_and_memory_auto_takes_the_least_that_fits(model_folder, base, monkeypatch):
    few = {"data": {"max_tokens_per_row": 280, "streaming": True}, "training": {"max_steps": 1}}
    recipe = recipe_of(model_folder, **few)
    needs = {each: need_of(recipe.recomputing(each), base) for each in LEAST_FIRST}
    activations = [need.step["activations of the decoder"] for need in needs.values()]
    assert activations[2] < activations[1] < 0.5 * activations[0]
    assert needs["none"].flops < needs["selective"].flops < needs["full"].flops
    assert 0.4 < (needs["selective"].flops - needs["none"].flops) / (needs["full"].flops - needs["none"].flops) < 0.7
    peaks = [need.peak + slack(need) for need in needs.values()]
    assert peaks == sorted(peaks, reverse=True) and len(set(peaks)) == 3
    monkeypatch.setattr(foresight, "count", lambda tried, situation: needs[tried.recomputation])
    left_open = Recipe.model_validate({**recipe.dump(), "memory": "auto"})
    args = left_open.training_arguments()
    for wanted, size in zip((*LEAST_FIRST, "full"), (*peaks, peaks[-1] - 1), strict=True):
        taken, (first, second) = chosen(left_open, base, None, args, Gpu("Abacus", size / GIB))
        assert taken == wanted and wanted in first.replace("true", "full").replace("false", "none")
        assert ("may run out" in second) == (size < peaks[-1])
    assert chosen(left_open, base, None, args, None)[0] == "none"  # in the memory of this machine
    monkeypatch.setattr(foresight, "count", lambda *_: torch.zeros(2) @ torch.zeros(3))
    assert chosen(left_open, base, None, args, None)[0] == "full"  # an operation that needs numbers


def test_the_line_of_training_warns_of_a_gpu_that_is_too_small(model_folder, base):
    recipe = recipe_of(model_folder, data={"streaming": True}, training={"max_steps": 1})
    args = recipe.training_arguments()
    line = foreseen(recipe, base, None, args, Gpu("Abacus", 0.5))
    assert line.startswith("memory: about 0.0") and line.endswith("; Abacus has 0.5 GiB: it may run out of memory")
    assert foreseen(recipe, base, None, args, Gpu("Abacus", 9)).endswith("around them")


def test_the_command_prints_parts_and_proposes_changes(model_folder, base, tmp_path, capsys):
    recipe, report = tmp_path / "recipe.yaml", tmp_path / "estimate.json"
    made = recipe_of(model_folder, data={"max_tokens_per_row": 512, "max_length": 512})
    made.write(recipe)
    need = need_of(made, base)
    size = f"{(need.peak + slack(need)) / GIB * 0.999:.6f}GiB"  # a little too small
    run(["estimate", str(recipe), "--gpu", size, "--fit", "--json", str(report)])
    printed, found = capsys.readouterr().out, json.loads(report.read_text())
    assert "rows are assumed, not those of the data" in printed and "TOO SMALL" in printed
    assert f"it fits {size} with training.gradient_checkpointing=selective" in printed
    assert sum(found["parts"].values()) == found["peak_bytes"] and found["changes"]
    assert "recomputing layers: none" in printed and "; the recipe has none" in printed
    assert found["recomputation"] == "none" and found["peaks"]["full"] < found["peaks"]["selective"] < need.peak
    assert not found["gpus"][size]["fits"]


def test_a_base_that_is_not_here_is_said(model_folder, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    known = look_at_base(recipe_of("LanguageBind/Video-LLaVA-7B-hf"))
    assert not known.is_here and known.config.text_config.num_hidden_layers == SHAPES["7b"].decoder.layers
    with pytest.raises(UserError, match=r"name_or_path|without its config nothing can be counted"):
        look_at_base(recipe_of("nobody/nothing"))


@pytest.fixture
def gib_by_recomputation(monkeypatch):
    """Have the command find these needs, without counting."""
    needs = {
        name: Need(Counter(decoder=size * GIB), 0, False, Counter(), 0, 1, 1, 1)
        for name, size in {"none": 40, "selective": 20, "full": 10}.items()
    }
    monkeypatch.setattr(jobs_estimate, "count", lambda tried, situation: needs[tried.recomputation])


def test_memory_auto_is_decided_for_each_gpu(gib_by_recomputation, model_folder, tmp_path, monkeypatch, capsys):
    recipe_of(model_folder, data={"max_length": 512}).write(tmp_path / "recipe.yaml")
    gpus = [Gpu(str(size), size) for size in (48, 24, 12, 6)]
    monkeypatch.setattr(jobs_estimate, "all_gpus", lambda: gpus)
    monkeypatch.setattr(jobs_estimate, "gpu_at_hand", lambda: None)
    run(["estimate", str(tmp_path / "recipe.yaml"), "memory=auto", "--questions", "1"])
    printed = capsys.readouterr().out
    verdicts = [
        "TOO SMALL" if "TOO SMALL" in line else "fits" for line in printed.splitlines() if "speed is not" in line
    ]
    assert (
        verdicts == ["fits", "fits", "fits", "TOO SMALL"] and "memory: auto takes the first that fits a GPU" in printed
    )


def test_changes_that_the_recipe_speaks_against_are_not_tried(gib_by_recomputation, model_folder, tmp_path, capsys):
    older = {"gradient_checkpointing_kwargs": {"use_reentrant": True}}  # with which nothing is selective
    recipe_of(model_folder, data={"max_length": 512}, training=older).write(tmp_path / "recipe.yaml")
    run(["estimate", str(tmp_path / "recipe.yaml"), "--gpu", "24GB", "--fit", "--questions", "1"])
    printed = capsys.readouterr().out
    assert "it fits 24GB with training.gradient_checkpointing=true" in printed and "selective" not in printed


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"optim": "galore_adamw"}, "training.optim: galore_adamw cannot be counted: "),
        ({"optim": "schedule_free_adamw"}, "training.optim: schedule_free_adamw cannot be counted: "),
        ({"optim": "adamw_torch", "adam_beta1": 2.0}, "training.optim: adamw_torch cannot be counted: Invalid beta"),
    ],
)
def test_an_optimizer_that_cannot_be_made_is_one_line(settings, said, model_folder):
    section = recipe_of(model_folder, training=settings).training
    args = build_training_arguments({**device_defaults("float32"), **section})
    with pytest.raises(UserError, match=said):
        make_optimizer(args, [nn.Parameter(torch.zeros(1))])
