import pytest
import torch
from torch import nn

from train.results import fast_arithmetic
from train.results.fast_arithmetic import WidenedLayer, has_arithmetic


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layer", [nn.Linear(5, 3), nn.Linear(5, 3, bias=False), nn.Conv2d(5, 3, 1)])
def test_a_widened_layer_sums_in_float32_and_keeps_its_weights(layer, dtype):
    layer = layer.to(dtype)
    kept = [parameter.data for parameter in layer.parameters()]
    inputs = torch.randn(2, 5, 1, 1).to(dtype) if isinstance(layer, nn.Conv2d) else torch.randn(2, 5).to(dtype)
    wanted = type(layer).forward(layer.float(), inputs.float()).to(dtype)
    for parameter, data in zip(layer.parameters(), kept, strict=True):
        parameter.data = data
    widened = WidenedLayer(layer)
    with torch.inference_mode():
        found = layer(inputs)
    assert found.dtype == dtype and torch.equal(found, wanted)
    assert all(parameter.data is data or torch.equal(parameter.data, data) for parameter, data in
               zip(layer.parameters(), kept, strict=True))  # fmt: skip
    assert {parameter.dtype for parameter in layer.parameters()} == {dtype}
    widened.remove()
    assert not layer._forward_hooks and not layer._forward_pre_hooks


def test_float32_always_has_its_arithmetic():
    assert has_arithmetic(torch.float32)
    assert set(fast_arithmetic.HAS_ARITHMETIC) == {torch.float16, torch.bfloat16}
