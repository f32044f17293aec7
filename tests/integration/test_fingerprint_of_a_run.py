"""Runs of train/sft.py leave a fingerprint, and continuing compares with it."""

import shutil

import pytest
import torch

from data.errors import UserError
from tests.short_run import result, write_recipe
from train.merging.merge import merge_adapter
from train.model.fingerprint import FINGERPRINT, last_logits, read_fingerprint, reference_inputs
from train.model.weight_files import identify_base
from train.results.artifact import open_artifact
from train.results.loading import load
from train.sft import main


@pytest.fixture
def base(shallow_folder, tmp_path):
    shutil.copytree(shallow_folder, tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def recipe(base, mixed_file, tmp_path):
    training = {"max_steps": 4, "save_steps": 2, "learning_rate": 1e-2, "save_total_limit": 9}
    return write_recipe(tmp_path, base, mixed_file, {"dropout": 0.1}, {}, training)


def other_weights(base):
    """Put weights of the same size in the place of the base's."""
    file = base / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1000:] = bytes(1000)
    file.write_bytes(content)


@pytest.mark.parametrize("quantization", ["null", "nf4"])
def test_result_and_checkpoints_answer_as_the_trained_model_did(recipe, base, tmp_path, quantization):
    main([str(recipe), f"model.quantization={quantization}"])
    out = tmp_path / "out"
    quantization = None if quantization == "null" else quantization
    kept = {}
    for folder in (out, out / "checkpoint-2", out / "checkpoint-4"):
        kept[folder.name] = read_fingerprint(folder / FINGERPRINT)
        assert kept[folder.name].base == identify_base(str(base))
        model, processor = load(open_artifact(str(folder)), quantization=quantization)
        found = last_logits(model, reference_inputs(processor))
        torch.testing.assert_close(found, kept[folder.name].logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(kept["out"].logits, kept["checkpoint-4"].logits, rtol=0, atol=0)
    assert (kept["out"].logits - kept["checkpoint-2"].logits).abs().max() > 1e-3
    lines = []
    merge_adapter(str(out), tmp_path / "merged", report=lines.append)
    whose = "the adapter's" if quantization else "those at the end of training"
    assert any(f"differ from {whose} by" in line for line in lines)


def test_a_run_does_not_continue_on_other_base_weights(recipe, base, tmp_path, capsys):
    main([str(recipe), "training.max_steps=2"])
    shutil.copytree(base, tmp_path / "sound")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    other_weights(base)
    with pytest.raises(UserError, match="has a run of another recipe .*the weights in .*base are others"):
        main([str(recipe), "training.max_steps=2"])
    with pytest.raises(UserError, match="checkpoint-2 was trained on another base: the weights in"):
        elsewhere = [f"training.output_dir={tmp_path / 'new'}", f"resume={tmp_path / 'out' / 'checkpoint-2'}"]
        main([str(recipe), "training.max_steps=2", *elsewhere])
    shutil.copyfile(tmp_path / "sound" / "model.safetensors", base / "model.safetensors")
    after = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {path: content for path, content in after.items() if path.name != ".lock"} == {
        path: content for path, content in before.items() if path.name != ".lock"
    }
    main([str(recipe), "training.max_steps=2"])  # the run goes on with the weights that it began with


def test_fingerprints_change_no_byte_of_the_adapter_nor_a_random_number(recipe, tmp_path):
    """A run that keeps one after every step ends as one that keeps it once."""
    main([str(recipe), "training.save_steps=1"])
    main([str(recipe), "training.save_strategy=no", f"training.output_dir={tmp_path / 'once'}"])
    assert result(tmp_path / "out") == result(tmp_path / "once")


@pytest.mark.parametrize("trainable", ["projector", "decoder"])
def test_parts_that_are_trained_in_float32_among_halves_have_one_too(recipe, tmp_path, trainable):
    main([str(recipe), "lora=null", f"model.trainable={trainable}", "model.dtype=bfloat16", "training.max_steps=1"])
    artifact = open_artifact(str(tmp_path / "out"))
    assert artifact.fingerprint.logits is not None and artifact.fingerprint.adapter is None
    load(artifact)


def test_an_adapter_that_bfloat16_trained_is_merged_and_answers_in_it(recipe, tmp_path):
    """Training computes under autocast, answering does not: both are the same model within bfloat16's rounding."""
    main([str(recipe), "model.dtype=bfloat16"])
    artifact = open_artifact(str(tmp_path / "out"))
    assert load(artifact)[0].dtype == torch.bfloat16
    merge_adapter(str(tmp_path / "out"), tmp_path / "merged", report=lambda line: None)


def test_without_towers_there_are_digests_alone(recipe, tmp_path):
    main([str(recipe), f"data.feature_cache={tmp_path / 'features'}", "training.max_steps=1"])
    kept = read_fingerprint(tmp_path / "out" / FINGERPRINT)
    assert kept.logits is None and kept.base.digest and kept.adapter
    load(open_artifact(str(tmp_path / "out")))
