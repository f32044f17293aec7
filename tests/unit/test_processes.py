"""Settings that several processes cannot have are refused by name, before a weight is loaded."""

import os
import sys
from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin

from data.errors import UserError
from tests.tiny_parts import write_decoder, write_tower
from train.model import load
from train.model.adapters import add_adapter
from train.model.load import quantization_config
from train.model.pretrained_parts import model_from_parts
from train.ranks import processes
from train.ranks.processes import (
    among_processes,
    check_connected,
    cpu_processes,
    name_layers_to_spread,
    refuse_impossible,
    refuse_other_shares,
    towers_of_all_ranks,
)
from train.start.trainable import load_trainable


@pytest.fixture(autouse=True)
def launched(monkeypatch):
    """Sets the variables of a launcher; all others of its kind are gone."""
    for name in ("WORLD_SIZE", "RANK", "ACCELERATE_USE_FSDP", "FSDP_VERSION", "ACCELERATE_USE_DEEPSPEED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    return lambda **variables: [monkeypatch.setenv(name, value) for name, value in variables.items()]


def arguments(stage: int | None = None, n_gpu: int = 1):
    return SimpleNamespace(deepspeed_plugin=stage and SimpleNamespace(zero_stage=stage), n_gpu=n_gpu)


@pytest.mark.parametrize("quantization", ["nf4", "fp4", "int8"])
def test_zero3_takes_no_quantised_weights(quantization):
    with pytest.raises(UserError, match=f"{quantization} weights cannot be spread by DeepSpeed ZeRO-3; use zero2.yaml"):
        refuse_impossible(arguments(stage=3), quantization)
    refuse_impossible(arguments(stage=3), None)
    refuse_impossible(arguments(stage=2), quantization)


def test_fsdp_takes_4_bits_and_not_8(launched):
    launched(ACCELERATE_USE_FSDP="true", FSDP_VERSION="2")
    with pytest.raises(UserError, match="int8 weights cannot be spread by FSDP; use model.quantization=nf4"):
        refuse_impossible(arguments(), "int8")
    refuse_impossible(arguments(), "nf4")
    assert quantization_config("nf4", "bfloat16", True).bnb_4bit_quant_storage == torch.bfloat16
    launched(FSDP_VERSION="1")
    with pytest.raises(UserError, match="fsdp_version 1 is not supported"):
        refuse_impossible(arguments(), None)


def test_4_bits_are_stored_as_ever_without_fsdp():
    assert quantization_config("nf4", "bfloat16", True).bnb_4bit_quant_storage == torch.uint8


def test_deepspeeds_checkpoint_wants_its_number_of_processes(tmp_path):
    (tmp_path / "global_step6").mkdir()
    for rank in range(2):
        (tmp_path / f"global_step6/zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").touch()
    for number in (2, 3):
        args = SimpleNamespace(deepspeed_plugin=SimpleNamespace(zero_stage=2), world_size=number)
        if number == 2:
            refuse_other_shares(str(tmp_path), args)
        else:
            with pytest.raises(UserError, match="with 2 processes and cannot take 3: launch 2"):
                refuse_other_shares(str(tmp_path), args)
    refuse_other_shares(str(tmp_path), SimpleNamespace(deepspeed_plugin=None, world_size=3))


def test_one_process_with_many_gpus():
    with pytest.raises(UserError, match="one process sees 8 GPUs; launch a process for each"):
        refuse_impossible(arguments(n_gpu=8), None)


def test_processes_that_are_not_connected(launched):
    check_connected(SimpleNamespace(num_processes=1))
    launched(WORLD_SIZE="2")
    check_connected(SimpleNamespace(num_processes=2))
    with pytest.raises(UserError, match="2 processes were launched but are not connected, this one sees 1"):
        check_connected(SimpleNamespace(num_processes=1))


def test_what_a_cpu_run_needs_is_chosen(launched):
    assert cpu_processes() == {"use_cpu": True, "ddp_backend": None}
    launched(WORLD_SIZE="2")
    assert cpu_processes() == {"use_cpu": True, "ddp_backend": "gloo"}
    launched(ACCELERATE_USE_DEEPSPEED="true")
    assert cpu_processes() == {"use_cpu": False, "ddp_backend": "gloo"}


def test_a_lost_process_is_one_line(launched, capsys):
    launched(WORLD_SIZE="2", RANK="1")
    with pytest.raises(SystemExit) as end, among_processes():
        raise RuntimeError("[gloo/pair.cc:544] Connection closed by peer [127.0.0.1]:1\nmore")
    assert end.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: process 1 of 2 lost the connection") and "more" not in line
    with pytest.raises(RuntimeError, match="another"), among_processes():
        raise RuntimeError("another problem")


@pytest.mark.parametrize("status, expected", [(None, ["slept", "left"]), (143, ["slept"])])
def test_gloo_has_time_before_the_end(monkeypatch, status, expected):
    events = []
    monkeypatch.setattr(processes.time, "sleep", lambda seconds: events.append("slept"))
    monkeypatch.setattr(processes.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(processes.dist, "get_backend", lambda: "gloo")
    monkeypatch.setattr(processes.dist, "destroy_process_group", lambda: events.append("left"))
    with suppress(SystemExit), among_processes():
        if status:
            sys.exit(status)
    assert events == expected


@pytest.mark.parametrize(
    ("tower", "decoder", "layers"),
    [
        ("clip", "llama", "CLIPEncoderLayer,LlamaDecoderLayer"),
        ("dinov2", "qwen2", "Dinov2Layer,Qwen2DecoderLayer"),
        ("siglip", "mistral", "MistralDecoderLayer,SiglipEncoderLayer"),
        ("vit", "qwen3", "Qwen3DecoderLayer,ViTLayer"),
    ],
)
def test_fsdp_spreads_the_layers_of_any_family(tower, decoder, layers, monkeypatch, tmp_path):
    folders = write_tower(tmp_path / "tower", tower), write_decoder(tmp_path / "decoder", decoder)
    model, *_ = model_from_parts(*map(str, folders), torch.float32)
    adapted = add_adapter(model.requires_grad_(False), r=2, alpha=2, dropout=0.0)
    monkeypatch.setenv("FSDP_TRANSFORMER_CLS_TO_WRAP", "Other")
    name_layers_to_spread(adapted)
    assert os.environ["FSDP_TRANSFORMER_CLS_TO_WRAP"] == "Other"
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    name_layers_to_spread(adapted)
    assert os.environ["FSDP_TRANSFORMER_CLS_TO_WRAP"] == layers


@pytest.mark.parametrize("quantization, expected", [(None, "true"), ("nf4", "false")])
def test_fsdp_sends_no_weights_of_4_bits_to_other_processes(
    quantization, expected, model_folder, launched, monkeypatch
):
    monkeypatch.setenv("FSDP_TRANSFORMER_CLS_TO_WRAP", "")
    launched(ACCELERATE_USE_FSDP="true", FSDP_CPU_RAM_EFFICIENT_LOADING="true")
    model = load.load_model(str(model_folder), quantization=quantization)
    name_layers_to_spread(add_adapter(model, r=2, alpha=2, dropout=0.0))
    assert FullyShardedDataParallelPlugin(fsdp_version=2).cpu_ram_efficient_loading == (expected == "true")
    assert os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"].lower() == expected


def test_towers_run_in_every_batch_where_another_rank_or_adam_would_notice(model):
    rows, others = (SimpleNamespace(kinds=lambda kinds=kinds: kinds) for kinds in ({"video"}, {"image"}))
    one, two = (SimpleNamespace(world_size=number) for number in (1, 2))
    model.requires_grad_(False)
    model.get_submodule("model.language_model").requires_grad_(True)
    assert towers_of_all_ranks(one, model, rows, others) == set()
    assert towers_of_all_ranks(two, model, rows, others) == {"image", "video"}
    assert towers_of_all_ranks(two, model, rows, None) == {"video"}
    model.get_submodule("model.multi_modal_projector").requires_grad_(True)
    assert towers_of_all_ranks(one, model, rows, None) == {"video"}


@pytest.fixture
def read_onto(monkeypatch, launched):
    """read_onto(device, **variables) returns the `device_map` with which training on `device` reads its base."""

    def run(device: str, **variables: str):
        monkeypatch.setattr(processes, "PartialState", lambda: SimpleNamespace(device=torch.device(device)))
        launched(**variables)
        asked = {}

        def from_pretrained(name, **arguments):
            asked.update(arguments)
            raise OSError("seen")

        monkeypatch.setattr(load.VideoLlavaForConditionalGeneration, "from_pretrained", from_pretrained)
        with pytest.raises(UserError, match="seen"):
            load_trainable({"name_or_path": "base", "dtype": "bfloat16", "revision": None}, {"r": 4}, None, seed=1)
        return asked["device_map"]

    return run


def test_a_rank_reads_weights_onto_its_own_device(read_onto, monkeypatch):
    """They are not converted in main memory first, a whole model for every rank."""
    assert read_onto("cuda:3") == {"": torch.device("cuda:3")}
    assert read_onto("cpu") is None
    assert read_onto("cuda:3", ACCELERATE_USE_FSDP="true") is None
    assert read_onto("cuda:3", ACCELERATE_USE_FSDP="false", ACCELERATE_USE_DEEPSPEED="true") is not None  # ZeRO-2
    monkeypatch.setattr(processes, "is_deepspeed_zero3_enabled", lambda: True)
    assert read_onto("cuda:3") is None
