"""Liger's kernels: asked for by transformers' own key, put into the decoder alone, and left out on a CPU."""

import pytest
import torch
from liger_kernel.transformers import LigerRMSNorm, LigerSwiGLUMLP, liger_rotary_pos_emb
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments
from transformers.models.llama import modeling_llama

from data.errors import UserError
from train.model import liger
from train.model.liger import NEEDS_GPU, run_on_liger, take_over_liger

ALL = {"rms_norm": True, "swiglu": True, "rope": True}


def arguments(tmp_path, **settings):
    return TrainingArguments(str(tmp_path), use_cpu=True, **settings)


@pytest.fixture
def model(monkeypatch):
    for name in ("apply_rotary_pos_emb", "LlamaRMSNorm", "LlamaMLP"):  # which Liger replaces
        monkeypatch.setattr(modeling_llama, name, getattr(modeling_llama, name))
    sizes = {"vocab_size": 20, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2))


def test_a_gpu_gets_the_kernels_and_weights_keep_their_names(model, tmp_path):
    args = arguments(tmp_path, use_liger_kernel=True)
    kernels = take_over_liger(args)
    assert kernels == ALL and not args.use_liger_kernel  # else Trainer would replace the loss
    names, forward = list(model.state_dict()), model.forward
    run_on_liger(model, kernels, torch.device("cuda"))
    assert list(model.state_dict()) == names and model.forward == forward
    for layer in model.model.layers:
        assert layer.mlp.forward.__func__ is LigerSwiGLUMLP.forward
        assert layer.input_layernorm.forward.__func__ is LigerRMSNorm.forward
    assert modeling_llama.apply_rotary_pos_emb is liger_rotary_pos_emb


def test_some_of_the_kernels(model, tmp_path):
    kernels = take_over_liger(arguments(tmp_path, use_liger_kernel=True, liger_kernel_config={"swiglu": False}))
    run_on_liger(model, kernels, torch.device("cuda"))
    assert "forward" not in vars(model.model.layers[0].mlp) and "forward" in vars(model.model.norm)


def test_a_cpu_keeps_transformers_operations_and_says_so_once(model, caplog):
    with caplog.at_level("INFO"):
        run_on_liger(model, ALL, torch.device("cpu"))
        run_on_liger(model, None, torch.device("cuda"))
    assert caplog.messages == [NEEDS_GPU]
    assert not any("forward" in vars(module) for module in model.modules())


def test_what_cannot_be_is_one_line(tmp_path, monkeypatch):
    assert take_over_liger(arguments(tmp_path)) is None
    fused = arguments(tmp_path, use_liger_kernel=True, liger_kernel_config={"fused_linear_cross_entropy": True})
    with pytest.raises(UserError, match="liger_kernel_config: fused_linear_cross_entropy is none of rms_norm, swiglu"):
        take_over_liger(fused)
    monkeypatch.setattr(liger, "is_liger_kernel_available", lambda: False)
    with pytest.raises(UserError, match=r"needs liger-kernel: pip install -e '.\[liger\]', or remove it"):
        take_over_liger(arguments(tmp_path, use_liger_kernel=True))
