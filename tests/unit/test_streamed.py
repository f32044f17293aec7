"""A model that has one layer's weights at a time answers as a whole one does, whatever it is made of."""

import pytest
import torch
from transformers import VideoLlavaProcessor

from data.processor import load_config
from tests.tiny_parts import write_decoder, write_tower
from train.jobs.new_model import make_model
from train.merging.base import BaseWeights
from train.merging.layout import layout_of
from train.merging.streamed import device, streamed_logits
from train.merging.tensors import Tensors
from train.model.bare import bare_model, give_buffers
from train.model.fingerprint import last_logits, reference_inputs
from train.model.load import load_model

PAIRS = [
    *(("clip", "qwen2"), ("siglip", "smollm2"), ("dinov2", "mistral")),
    *(("dinov2_with_registers", "qwen3"), ("vit", "llama3")),
]


@pytest.mark.parametrize(("tower", "decoder"), PAIRS)
def test_every_tower_and_decoder_runs_layer_by_layer(tower, decoder, tmp_path):
    parts = write_tower(tmp_path / "tower", tower), write_decoder(tmp_path / "decoder", decoder)
    make_model(tmp_path / "made", None, *map(str, parts), "float32", 0)
    made = str(tmp_path / "made")
    inputs = reference_inputs(VideoLlavaProcessor.from_pretrained(made))
    wanted = last_logits(load_model(made), inputs)

    model = bare_model(load_config(made, None))
    give_buffers(model, device())
    read: list[str] = []
    most = 0
    base = BaseWeights(Tensors(made), layout_of(model), torch.float32)

    def weights(name: str) -> torch.Tensor:
        nonlocal most
        read.append(name)
        most = max(most, sum(not parameter.is_meta for parameter in model.parameters()))
        return base(name)

    found = streamed_logits(model, weights, inputs, torch.float32, "running")
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert len(set(read)) > 100
    assert most < len(set(read)) / 3, "no more than a layer at a time"
