"""An adapter merged into its base: a full model that loads without PEFT, checked before it is kept.

The sum is made in float32, layer by layer, in unquantised weights, and rounded once at the end. An adapter
trained on a 4-bit base is merged into the same base in full precision: 4-bit weights cannot hold the sum, and
rounding it to 4 bits again would lose most of what was learned.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from PIL import Image
from torch import nn
from transformers import VideoLlavaForConditionalGeneration, VideoLlavaProcessor

from data.errors import UserError, one_line
from data.files import whole_folder
from train.model.load import load_model
from train.results.artifact import RECIPE, open_artifact
from train.results.loading import Answering, add_saved_adapter, greedy, processor_of

# Largest relative difference ||merged - adapter|| / ||adapter||: of each layer's output in float32, and of
# the logits in the number type that is saved. Half precision rounds weights and outputs to 8 (bfloat16) or 11
# bits, in another order with and without adapter: 1.3 % and 0.14 % in a model of 4 layers, more in one of 32.
TOLERANCES = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}


def merge_adapter(
    adapter: str,
    out_dir: Path,
    base: str | None = None,
    dtype: str | None = None,
    report: Callable[[str], None] = print,
) -> None:
    """Merge, save, load again and compare; `report` gets a line for the user on each step.

    `dtype` None keeps that of the base checkpoint. Runs on the CPU and holds one full model in memory.
    `out_dir` appears only when everything in it is written and checked; UserError otherwise.
    """
    artifact = open_artifact(adapter, base)
    if not artifact.is_adapter:
        raise UserError(f"{adapter} is a full model, not an adapter: there is nothing to merge")
    _refuse_to_overwrite(out_dir)
    dtype = dtype or artifact.dtype
    report(f"base: {artifact.base} ({artifact.dtype}, not quantised)")
    if artifact.quantization:
        report(f"trained on a base in {artifact.quantization}, which cannot hold the sum: merged into full precision")

    processor = processor_of(artifact)
    inputs = check_inputs(processor)
    base_model = load_model(artifact.base, revision=artifact.revision, dtype=artifact.dtype)
    adapted = add_saved_adapter(base_model, artifact).eval()
    wanted = logits_of(adapted, inputs)
    model, num_layers = merge_in_float32(adapted, getattr(torch, dtype))
    del base_model, adapted
    model.generation_config = greedy(processor.tokenizer)
    tolerance = max(TOLERANCES[dtype], TOLERANCES[artifact.dtype])
    difference = compare(logits_of(model, inputs), wanted, tolerance, "the merged model's logits")
    report(f"merged {num_layers} layers; logits differ from the adapter's by {difference:.1e} of {tolerance:.0e}")

    with complete_folder(out_dir) as folder:
        model.save_pretrained(folder, max_shard_size="5GB")
        processor.save_pretrained(folder)
        if artifact.recipe_file:
            shutil.copyfile(artifact.recipe_file, folder / RECIPE)
        digests = digests_of(model)
        del model
        check_saved(folder, digests)
    size = sum(file.stat().st_size for file in out_dir.iterdir())
    report(f"saved {out_dir}: {dtype}, {size / 1e9:.3g} GB, loaded again bit for bit")


@torch.inference_mode()
def merge_in_float32(model: PeftModel, dtype: torch.dtype) -> tuple[VideoLlavaForConditionalGeneration, int]:
    """Add each layer's adapter in float32, then round all weights to `dtype` once.

    Returns the plain model and the number of merged layers. Raises UserError where a layer's sum is not finite,
    or where the merged layer gives another output than the layer with its adapter.
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, BaseTunerLayer)}
    for name, layer in layers.items():
        assert isinstance(layer, nn.Module)  # BaseTunerLayer is a mixin of modules
        base = layer.get_base_layer().float()
        if not isinstance(base, nn.Linear):
            raise UserError(f"the adapter changes {name}, a {type(base).__name__}; only linear layers can be merged")
        probe = torch.randn(2, base.in_features)
        wanted = layer(probe)
        try:
            layer.merge(safe_merge=True)
        except ValueError as problem:
            raise UserError(f"the adapter is broken: {name}: {one_line(problem)}") from problem
        compare(base(probe), wanted, TOLERANCES["float32"], f"outputs of {name}")
        base.to(dtype)
    merged = model.unload()  # puts the merged layers, and what modules_to_save trained, in their places
    for parameter in merged.parameters():  # not .to(): buffers such as rotary frequencies stay in float32
        parameter.data = parameter.data.to(dtype)
    for config in (merged.config, merged.config.text_config, merged.config.vision_config):
        config.dtype = dtype
    return merged, len(layers)


def check_inputs(processor: VideoLlavaProcessor) -> Mapping[str, torch.Tensor]:
    """Return a short prompt about a picture and a clip of one frame, both noise: every part of the model takes part."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    parts: Any = [{"type": "image"}, {"type": "video"}, {"type": "text", "text": "What can be seen here?"}]
    text = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
    as_tensors: Any = {"return_tensors": "pt"}  # ProcessorMixin's stub does not know it
    return processor(text=text, images=Image.fromarray(noise), videos=[noise[None]], **as_tensors)


@torch.inference_mode()
def logits_of(model: Answering, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the logits, float32 (1, T, vocabulary)."""
    pixels = {name: value.to(model.dtype) for name, value in inputs.items() if value.is_floating_point()}
    return model(**{**inputs, **pixels}, use_cache=False).logits.float()


def compare(found: torch.Tensor, wanted: torch.Tensor, tolerance: float, what: str) -> float:
    """Return the relative difference; UserError when it is more than `tolerance`, or no number."""
    difference = ((found - wanted).norm() / wanted.norm()).item()
    if not difference <= tolerance:
        raise UserError(
            f"merging failed, nothing was written: {what} differ from the adapter's by {difference:.1e} "
            f"(at most {tolerance:.0e}); try --dtype float32"
        )
    return difference


def digests_of(model: nn.Module) -> dict[str, str]:
    """Return a digest of every weight's bytes, by name, to compare two models without holding both."""
    return {
        name: hashlib.blake2b(weight.contiguous().view(-1).view(torch.uint8).numpy()).hexdigest()
        for name, weight in model.state_dict().items()
    }


def check_saved(folder: Path, digests: dict[str, str]) -> None:
    """Load what was saved as a user would, without PEFT; UserError unless all weights come back bit for bit."""
    reloaded = VideoLlavaForConditionalGeneration.from_pretrained(folder, dtype="auto")
    found = digests_of(reloaded)
    if different := sorted(name for name in digests.keys() | found if digests.get(name) != found.get(name)):
        raise UserError(
            f"{len(different)} weights of the saved model differ when loaded again, such as {different[0]}; "
            "nothing was kept; is the disk full or failing?"
        )


@contextmanager
def complete_folder(out_dir: Path) -> Iterator[Path]:
    """Yield a folder to fill beside `out_dir`, renamed to it at the end, removed when anything fails before.

    Raises UserError where it cannot be written.
    """
    try:
        with whole_folder(out_dir) as folder:
            yield folder
    except OSError as problem:
        raise UserError(f"cannot write {out_dir}: {one_line(problem)}") from problem


def _refuse_to_overwrite(out_dir: Path) -> None:
    if out_dir.is_dir() and not any(out_dir.iterdir()):
        return
    if out_dir.exists():
        raise UserError(f"{out_dir} exists already; give a new folder")
