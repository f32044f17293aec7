"""Questions that `generate` must answer itself, each alone, and why."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import DynamicCache, GenerationConfig

from train.answering.choosing import Chooser, unknown_settings
from train.answering.decoding import AnyModel, moved

# Rotary embeddings whose frequencies depend on the longest sequence of a pass: the same whatever the company is.
FIXED_ROTARY = {"default", "linear", "yarn", "llama3", "proportional"}


def why_alone(model: AnyModel) -> str | None:
    """Return why questions of this model cannot be decoded together, in a few words; None where they can."""
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    if names := unknown_settings(base.generation_config):
        return f"its generation config sets {', '.join(names)}"
    if isinstance(model, PeftModel) and any(each.is_prompt_learning for each in model.peft_config.values()):
        return "its adapter puts learned tokens before each prompt"
    decoder = base.config.get_text_config()
    rotary = (getattr(decoder, "rope_parameters", None) or {}).get("rope_type", "default")
    if rotary not in FIXED_ROTARY:
        return f"its decoder's rotary embedding, {rotary}, depends on a prompt's length"
    if set(getattr(decoder, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
        return "not every layer of its decoder sees all tokens"
    if getattr(decoder, "sliding_window", None) and getattr(decoder, "use_sliding_window", True):
        return "its decoder sees the last tokens only"
    if getattr(decoder, "attn_logit_softcapping", None):
        return "its decoder caps what attention scores"
    return None


@torch.no_grad()
def generate_alone(
    model: AnyModel,
    ids: np.ndarray,
    pixels: Mapping[str, torch.Tensor],
    max_new_tokens: int,
    seed: int,
    settings: GenerationConfig | None = None,
) -> list[int]:
    """Return what `generate` says to one prompt; what it draws begins with `seed`, and leaves no trace. settings: None
    takes the model's own."""
    generating: Any = model  # the stub of `generate` wants a class that no model is
    inputs = {"input_ids": torch.from_numpy(ids.astype(np.int64))[None], **pixels}
    inputs = {name: moved(model, value) for name, value in inputs.items()}
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        attention_mask = torch.ones_like(inputs["input_ids"])
        said = generating.generate(
            **inputs, attention_mask=attention_mask, max_new_tokens=max_new_tokens, generation_config=settings
        )
    return said[0, len(ids) :].tolist()


@dataclass
class Lone:
    """An answer that is decoded by itself, see `train.answering.choosing.PartialAnswer`."""

    prompt: np.ndarray
    random: torch.Generator | None
    said: list[int] = field(default_factory=list)


@torch.no_grad()
def pass_by_pass(
    model: AnyModel, ids: np.ndarray, pixels: Mapping[str, torch.Tensor], max_new_tokens: int, choose: Chooser
) -> list[int]:
    """Return what `generate_alone` does, by passes of `model` itself, on which hooks gather the weights that are
    spread."""
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    passing: Any = model
    cache = DynamicCache(config=base.config.get_text_config())
    answer = Lone(ids, choose.stream(ids))
    inputs = {"input_ids": torch.from_numpy(ids.astype(np.int64))[None], **pixels}
    while True:
        inputs = {name: moved(model, value) for name, value in inputs.items()}
        logits = passing(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
        answer.said += choose(logits, [answer])
        if answer.said[-1] in choose.ends or len(answer.said) >= max_new_tokens:
            return answer.said
        inputs = {"input_ids": torch.tensor([answer.said[-1:]])}
