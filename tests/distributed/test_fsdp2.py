"""FSDP2 spreads weights: on the CPU with torch's own fully_shard; the real command where there are GPUs."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml

from tests import gpus
from tests.distributed.sharded import backward, batches, gradients, load
from tests.distributed.test_equality import check_two_are_one, recipe_file  # noqa: F401 (a fixture)
from tests.launching import ROOT, launch


@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_layers_are_spread_gradients_are_those_of_one_process_and_weights_come_back(
    quantization, smallest_folder, tmp_path
):
    settings = yaml.safe_load((ROOT / "accelerate_configs/fsdp2.yaml").read_text())["fsdp_config"]
    layers = settings["fsdp_transformer_layer_cls_to_wrap"].split(",")
    arguments = smallest_folder, tmp_path / "out.pt", quantization or "none", *layers
    launch("cpu_2", "tests/distributed/sharded.py", *arguments, folder=tmp_path)
    spread = torch.load(tmp_path / "out.pt")
    layers_of = [name.split(".layers.")[0].split(".")[-1] for name in spread["names"]]
    assert sorted(set(layers_of)) == ["encoder", "language_model"] and len(layers_of) == 1 + 2 + 2
    assert spread["share"] == pytest.approx(0.5, abs=0.05)

    model = load(smallest_folder, quantization)
    alone = batches(smallest_folder)
    for number in (0, 1, 3, 2, 4, 0):
        backward(model, alone[number])
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(2 * spread["gradients"][name], gradient, msg=name)  # theirs is a mean over ranks
    for name, weight in model.named_parameters():
        for found in (spread["weights"][name], spread["again"][name]):  # of 4 bits, numbers of another type hold them
            assert torch.equal(found.view(weight.dtype).flatten(), weight.flatten()), name


no_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")
few_gpus = pytest.mark.skipif(gpus.NUMBER < 2, reason="fewer than two GPUs")


@pytest.mark.gpu
@pytest.mark.parametrize(
    "config, quantization",
    [
        ("fsdp2", None),
        ("fsdp2", "nf4"),
        pytest.param("zero3", None, marks=no_deepspeed),
        pytest.param("multi_gpu", None, marks=few_gpus),
    ],
)
def test_the_command_trains_on_all_gpus(config, quantization, recipe_file: Path, tmp_path):  # noqa: F811
    check_two_are_one(config, recipe_file, tmp_path, quantization, num_processes=gpus.NUMBER, on_gpus=True)
