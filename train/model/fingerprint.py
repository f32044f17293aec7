"""Keep beside a trained model what tells it from every other one, and compare with it.

A fingerprint is a small file: digests of the base's weights, of the adapter's and of its settings, and reference
logits, the trained model's own on a built-in picture, clip and prompt. Digests tell that the bytes are those of
training; logits tell that the same bytes still make the same model, whatever loads them.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import VideoLlavaProcessor

from data.checkpoint_files import ADAPTER_CONFIG
from data.errors import UserError, one_line
from train.model.weight_files import (
    ADAPTER_WEIGHTS,
    BaseIdentity,
    digest_of_files,
    identify_base,
    weight_files,
)
from train.ranks.agreement import on_first_rank

FINGERPRINT = "fingerprint.safetensors"
QUESTION = "What can be seen here?"
SIDE = 64  # pixels of the built-in picture and frame; the processor resizes them
NUM_POSITIONS = 8  # the prompt's last ones, of the question's words, which have seen picture and clip; 1 MB for 7B
# Settings of an adapter that decide what its matrices do to the base; the others name places and versions.
DECISIVE_SETTINGS = (
    *("r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "target_modules", "bias"),
    *("modules_to_save", "layers_to_transform", "fan_in_fan_out"),
)
# Largest relative difference ||found - reference|| / ||reference|| of logits that count as the same model's, by the
# type of number that they are computed in. Machines sum in other orders, and GPUs convolve float32 in TF32; half
# precision rounds every layer's output to 11 (float16) or 8 bits (bfloat16).
TOLERANCES = {"float32": 2e-3, "float16": 2e-2, "bfloat16": 1e-1}


@dataclass(frozen=True)
class Fingerprint:
    """`logits` (NUM_POSITIONS, vocabulary) float32 and `input_ids` (1, T) long are None where the model could not be
    run as a whole; `quantization` and `dtype` are those of the base in training, or of a merged model.

    Merged models alone have `weights`, the digest of their own, and `checked_to`, the largest relative difference of
    their logits: they were compared with those of training, in another number type perhaps.
    """

    base: BaseIdentity
    dtype: str
    quantization: str | None
    adapter: str | None = None
    settings: str | None = None
    input_ids: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    weights: str | None = None
    checked_to: float | None = None

    @property
    def tolerance(self) -> float:
        return self.checked_to or TOLERANCES[self.dtype]


def agree_on_base(name_or_path: str, revision: str | None) -> BaseIdentity:
    """Identify the base that all ranks train. ALL RANKS: each waits for the download, one reads the weights."""
    weight_files(name_or_path, revision)  # a download may take longer than ranks wait for each other
    return on_first_rank(identify_base, name_or_path, revision)


def write_fingerprint(
    folder: Path,
    model: nn.Module,
    *,
    base: BaseIdentity,
    dtype: str,
    quantization: str | None,
    processor: VideoLlavaProcessor,
    can_run: bool = True,
) -> None:
    """Write the fingerprint of what is saved in `folder`, where the weights are in place.

    can_run: whether this process can run the trained model; not where it is spread over ranks or has no towers.
    """
    adapter = settings = None
    if (folder / ADAPTER_WEIGHTS).is_file():
        adapter = digest_of_files([folder / ADAPTER_WEIGHTS])
        settings = settings_digest(json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8")))
    input_ids = logits = None
    if can_run:
        inputs = reference_inputs(processor)
        device = next(model.parameters()).device.type
        # As in training, where Accelerate does the same: parts that are trained are float32 among halves.
        with torch.autocast(device, getattr(torch, dtype), enabled=dtype != "float32"):
            input_ids, logits = inputs["input_ids"], last_logits(model, inputs)
    save_fingerprint(folder, Fingerprint(base, dtype, quantization, adapter, settings, input_ids, logits))


def save_fingerprint(folder: Path, fingerprint: Fingerprint) -> None:
    """Write a fingerprint beside the model that it tells of."""
    values = {
        "base_digest": fingerprint.base.digest,
        "base_commit": fingerprint.base.commit,
        "dtype": fingerprint.dtype,
        "quantization": fingerprint.quantization,
        "adapter": fingerprint.adapter,
        "settings": fingerprint.settings,
        "weights": fingerprint.weights,
        "checked_to": None if fingerprint.checked_to is None else repr(fingerprint.checked_to),
    }
    tensors = {"input_ids": fingerprint.input_ids, "logits": fingerprint.logits}
    save_file(
        {name: tensor for name, tensor in tensors.items() if tensor is not None},
        folder / FINGERPRINT,
        metadata={name: value for name, value in values.items() if value is not None},
    )


def check_resumed(checkpoint: str | None, base: BaseIdentity) -> None:
    """Raise UserError where a checkpoint comes from training another base than the one to continue with."""
    file = Path(checkpoint or "", FINGERPRINT)
    if checkpoint and file.is_file() and read_fingerprint(file).base.digest != base.digest:
        raise UserError(
            f"{checkpoint} was trained on another base: the weights in model.name_or_path are others; give the base "
            "that it was trained on, or start over with --fresh"
        )


def read_fingerprint(file: Path) -> Fingerprint:
    """Read what `write_fingerprint` wrote; UserError for a damaged file."""
    try:
        with safe_open(file, framework="pt") as opened:
            values = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        if values["dtype"] not in TOLERANCES or values.get("quantization") not in (None, "nf4", "fp4", "int8"):
            raise ValueError(f"trained in {values['dtype']!r}, {values.get('quantization')!r}")
        if tensors and (tensors["logits"].ndim, tensors["input_ids"].ndim) != (2, 2):
            raise ValueError("its tensors are no logits of a prompt")
        return Fingerprint(
            base=BaseIdentity(values["base_digest"], values.get("base_commit")),
            dtype=values["dtype"],
            quantization=values.get("quantization"),
            adapter=values.get("adapter"),
            settings=values.get("settings"),
            input_ids=tensors.get("input_ids"),
            logits=tensors.get("logits"),
            weights=values.get("weights"),
            checked_to=_tolerance(values.get("checked_to")),
        )
    except (SafetensorError, OSError, KeyError, ValueError) as problem:
        raise UserError(f"{file} is damaged: {one_line(problem)}") from problem


def _tolerance(text: str | None) -> float | None:
    """Return a number of a fingerprint; ValueError for one that would let everything pass."""
    if text is None:
        return None
    if not 0 < (number := float(text)) <= max(TOLERANCES.values()):
        raise ValueError(f"checked_to is {text!r}")
    return number


def settings_digest(adapter_config: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the settings that decide what an adapter's matrices do."""
    values = {name: adapter_config.get(name) for name in DECISIVE_SETTINGS}
    if (tokens := adapter_config.get("trainable_token_indices")) is not None:
        values["trainable_token_indices"] = tokens
    values = {name: sorted(value) if isinstance(value, list) else value for name, value in values.items()}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def reference_inputs(processor: VideoLlavaProcessor) -> Mapping[str, torch.Tensor]:
    """Return a short prompt about a picture and a clip of one frame: every part of the model takes part.

    The pixels come from a formula, so that no library's random numbers can change them.
    """
    row, column, colour = np.ogrid[:SIDE, :SIDE, :3]
    pixels = ((row * 37 + column * 59 + row * column * 11 + colour * 83) % 256).astype(np.uint8)
    parts: Any = [{"type": "image"}, {"type": "video"}, {"type": "text", "text": QUESTION}]
    text = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
    as_tensors: Any = {"return_tensors": "pt"}  # ProcessorMixin's stub does not know it
    return processor(text=text, images=Image.fromarray(pixels), videos=[255 - pixels[None]], **as_tensors)


@torch.inference_mode()
def last_logits(
    model: nn.Module,
    inputs: Mapping[str, torch.Tensor],
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Return the logits of the prompt's last positions, float32 (NUM_POSITIONS, vocabulary), on the CPU.

    device and dtype: of the pixels, where the weights do not say. Leaves the model in the mode that it was in, and
    passes by what Accelerate wraps around `forward`.
    """
    parameter = next(parameter for parameter in model.parameters() if parameter.is_floating_point())
    device, dtype = device or parameter.device, dtype or parameter.dtype
    placed = {name: value.to(device, dtype if value.is_floating_point() else None) for name, value in inputs.items()}
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.compiler.set_stance("force_eager"):  # a graph for one prompt would take longer than any answer
            output = type(model).forward(model, **placed, use_cache=False, logits_to_keep=NUM_POSITIONS)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return output.logits[0, -NUM_POSITIONS:].float().cpu().contiguous()


def difference_of(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Return ||found - wanted|| / ||wanted||; infinite where they are not of one shape."""
    if found.shape != wanted.shape:
        return float("inf")
    return ((found - wanted).norm() / wanted.norm()).item()


def check_logits(
    fingerprint: Fingerprint, logits: torch.Tensor, input_ids: torch.Tensor, name: str, tolerance: float | None = None
) -> float:
    """Compare a loaded model's logits with those of training; returns their relative difference.

    Raises UserError where it is more than `tolerance`, or where the processor makes other tokens of the prompt.
    """
    assert fingerprint.logits is not None and fingerprint.input_ids is not None
    if not torch.equal(input_ids, fingerprint.input_ids):
        raise UserError(
            f"{name}: its processor makes other tokens of a prompt than the one that it was trained with; "
            "restore the tokenizer's and processor's files that training saved"
        )
    difference = difference_of(logits, fingerprint.logits)
    limit = fingerprint.tolerance if tolerance is None else tolerance
    if not difference <= limit:
        raise UserError(
            f"{name} does not answer as it did when it was saved: its logits on a built-in prompt differ by "
            f"{difference:.1e} (at most {limit:.0e}); restore its files, or install the "
            "versions of torch, transformers and peft that provenance.json names"
        )
    return difference
