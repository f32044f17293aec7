"""Adapters with random weights on the tiny model, saved as training saves them."""

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import VideoLlavaForConditionalGeneration, VideoLlavaProcessor

from train.model.adapters import add_adapter
from train.model.fingerprint import write_fingerprint
from train.model.load import load_model
from train.model.weight_files import identify_base
from train.recipe.yaml_text import to_yaml


def random_adapter(base: Path, quantization: str | None = None, dtype: str = "float32", **settings) -> PeftModel:
    """Return a model with an adapter of no zero matrix, which changes every answer; `settings` go to `add_adapter`."""
    torch.manual_seed(1)
    model = load_model(str(base), quantization=quantization, dtype=dtype)
    model = add_adapter(model, r=4, alpha=8, dropout=0.1, **settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "lora_A" not in name:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def save_adapter(base: Path, folder: Path, quantization: str | None = None, **settings) -> Path:
    random_adapter(base, quantization, **settings).save_pretrained(folder)
    return folder


def strange_adapter(base: Path, folder: Path, saved_in=torch.float32, seed: int = 3, **settings) -> Path:
    """Save an adapter that somebody else has made with PEFT, every trained tensor of it moved."""
    torch.manual_seed(seed)
    model = VideoLlavaForConditionalGeneration.from_pretrained(base)
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **{"r": 4, "lora_alpha": 8} | settings))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
                parameter.data = parameter.data.to(saved_in)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    return folder


def keep_result(
    model: PeftModel,
    base: Path,
    folder: Path,
    processor: VideoLlavaProcessor,
    dtype: str = "float32",
    quantization: str | None = None,
    answering: PeftModel | None = None,
    can_run: bool = True,
) -> Path:
    """Save what training saves at its end; `answering` is a model whose logits are kept instead of the adapter's."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    recipe = {"model": {"dtype": dtype, "quantization": quantization, "double_quantization": True}}
    (folder / "recipe.yaml").write_text(to_yaml(recipe))
    write_fingerprint(
        folder,
        answering or model,
        base=identify_base(str(base)),
        dtype=dtype,
        quantization=quantization,
        processor=processor,
        can_run=can_run,
    )
    return folder
