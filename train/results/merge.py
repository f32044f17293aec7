"""An adapter merged into its base: a full model that loads without PEFT, checked before it is kept.

The sum is made in float32, layer by layer, in unquantised weights, and rounded once at the end. An adapter
trained on a 4-bit base is merged into the same base in full precision: 4-bit weights cannot hold the sum, and
rounding it to 4 bits again would lose most of what was learned.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import VideoLlavaForConditionalGeneration, VideoLlavaProcessor

from data.checkpoint_files import find_file
from data.errors import UserError, one_line
from data.files import is_disk_problem, remove_killed, whole_folder
from data.processor_files import save_processor
from data.progress.bars import shown
from train.card.model_card import CARD, make_card
from train.model.fingerprint import check_logits, difference_of, last_logits, reference_inputs
from train.model.load import load_model
from train.model.weight_files import weight_files
from train.preprocessing.contract import PREPROCESSING
from train.results.artifact import Artifact, open_artifact
from train.results.fast_arithmetic import fast_arithmetic
from train.results.identity import check_digests, missing_fingerprint
from train.results.loading import add_saved_adapter, greedy, processor_of
from train.run_folder.provenance import PROVENANCE

# Largest relative difference ||merged - adapter|| / ||adapter||: of each layer's output in float32, and of
# the logits in the number type that is saved. Half precision rounds weights and outputs to 8 (bfloat16) or 11
# bits, in another order with and without adapter: 1.3 % and 0.14 % in a model of 4 layers, more in one of 32.
TOLERANCES = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
# CPUs and GPUs multiply int8 weights with inputs that are rounded in other ways.
QUANTISED_TOLERANCE = 5e-2


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
    _refuse_without_room(artifact, out_dir, dtype)
    check_digests(artifact)
    report(f"base: {artifact.base} ({artifact.dtype}, not quantised)")
    processor = processor_of(artifact)
    check_quantised(artifact, processor, report)
    model = _merge_and_compare(artifact, processor, dtype, report)

    with complete_folder(out_dir) as folder:
        with shown("saving the merged model", is_watched=True):
            model.save_pretrained(folder, max_shard_size="5GB")
            save_processor(processor, folder)
            kept = [find_file(artifact.name_or_path, name) for name in (PROVENANCE, PREPROCESSING)]
            for file in (artifact.recipe_file, *kept):
                if file:
                    shutil.copyfile(file, folder / file.name)
            (folder / CARD).write_text(make_card(folder, out_dir.name, artifact.base), encoding="utf-8")
        with shown("loading what was saved", is_watched=True):
            digests = digests_of(model)
            del model
            check_saved(folder, digests)
    size = sum(file.stat().st_size for file in out_dir.iterdir())
    report(f"saved {out_dir}: {dtype}, {size / 1e9:.3g} GB, loaded again bit for bit")


def check_quantised(artifact: Artifact, processor: VideoLlavaProcessor, report: Callable[[str], None]) -> None:
    """Compare an adapter on its base, quantised as in training, with what training had.

    That is the only comparison with training there is for it: nobody has seen its logits on the unquantised base.
    """
    kept = artifact.fingerprint
    if kept is None:
        report(missing_fingerprint(artifact))
    elif kept.logits is None:
        report("training could not run the whole model at its end: the merged model is compared with the adapter's")
    if not artifact.quantization:
        return
    report(f"trained on a base in {artifact.quantization}, which cannot hold the sum: merged into full precision")
    if kept is None or kept.logits is None:
        return
    double = artifact.recipe["model"].get("double_quantization", True)
    model = load_model(
        artifact.base,
        revision=artifact.revision,
        dtype=kept.dtype,
        quantization=kept.quantization,
        double_quantization=double,
    )
    inputs = reference_inputs(processor)
    logits = last_logits(add_saved_adapter(model, artifact).eval(), inputs)
    limit = max(kept.tolerance, QUANTISED_TOLERANCE)
    difference = check_logits(kept, logits, inputs["input_ids"], artifact.name_or_path, limit)
    report(f"on the base in {kept.quantization}, logits differ from those of training by {difference:.1e}")


def _merge_and_compare(
    artifact: Artifact, processor: VideoLlavaProcessor, dtype: str, report: Callable[[str], None]
) -> VideoLlavaForConditionalGeneration:
    """Merge; UserError unless the adapter answers as in training, and the merged model as both."""
    kept, inputs = artifact.fingerprint, reference_inputs(processor)
    base_model = load_model(artifact.base, revision=artifact.revision, dtype=artifact.dtype)
    adapted = add_saved_adapter(base_model, artifact).eval()
    with fast_arithmetic(adapted, getattr(torch, artifact.dtype)) as computed_in:
        wanted = last_logits(adapted, inputs)
    of_training = None if kept is None or kept.quantization else kept.logits
    limit = max(TOLERANCES[dtype], TOLERANCES[artifact.dtype])
    limit_of_training = max(limit, kept.tolerance) if kept else limit
    if kept is not None and of_training is not None:
        check_logits(kept, wanted, inputs["input_ids"], artifact.name_or_path, limit_of_training)

    with shown("merging", is_watched=True):
        model, num_layers = merge_in_float32(adapted, getattr(torch, dtype))
    del base_model, adapted
    model.generation_config = greedy(processor.tokenizer)
    with fast_arithmetic(model, getattr(torch, dtype)) as computed_in:
        found = last_logits(model, inputs)
    difference, whose = compare(found, wanted, limit, "the merged model's logits"), "the adapter's"
    if of_training is not None:
        difference = compare(found, of_training, limit_of_training, "the merged model's logits", "training's")
        whose, limit = "those at the end of training", limit_of_training
    report(
        f"merged {num_layers} layers; logits, computed in {computed_in}, differ from {whose} by {difference:.1e} "
        f"of {limit:.0e}"
    )
    return model


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
        if isinstance(base, nn.Embedding):
            probe = torch.arange(base.num_embeddings)
        elif isinstance(base, nn.Linear):
            probe = torch.randn(2, base.in_features)
        else:
            raise UserError(f"the adapter changes {name}, a {type(base).__name__}; only linear layers can be merged")
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


def compare(
    found: torch.Tensor, wanted: torch.Tensor, tolerance: float, what: str, whose: str = "the adapter's"
) -> float:
    """Return the relative difference; UserError when it is more than `tolerance`, or no number."""
    difference = difference_of(found, wanted)
    if not difference <= tolerance:
        raise UserError(
            f"merging failed, nothing was written: {what} differ from {whose} by {difference:.1e} "
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
    reloaded = VideoLlavaForConditionalGeneration.from_pretrained(folder, dtype="auto", trust_remote_code=False)
    found = digests_of(reloaded)
    if different := sorted(name for name in digests.keys() | found if digests.get(name) != found.get(name)):
        raise UserError(
            f"{len(different)} weights of the saved model differ when loaded again, such as {different[0]}; "
            "nothing was kept; is the disk full or failing?"
        )


@contextmanager
def complete_folder(out_dir: Path) -> Iterator[Path]:
    """Yield a folder to fill beside `out_dir`, flushed and renamed to it at the end, removed when anything fails.

    What a killed merge left there goes too. Raises UserError where the folder cannot be written.
    """
    try:
        remove_killed(out_dir)
        with whole_folder(out_dir) as folder:
            yield folder
    except Exception as problem:
        if isinstance(problem, UserError) or not is_disk_problem(problem):
            raise
        raise UserError(
            f"cannot write {out_dir}: {one_line(problem)}; nothing was kept: make room and give the same command again"
        ) from problem


def _refuse_without_room(artifact: Artifact, out_dir: Path, dtype: str) -> None:
    """Raise UserError where the disk has less room than the merged model needs: before merging it, not after."""
    sizes = [file.stat().st_size for file in weight_files(artifact.base, artifact.revision)]
    wanted, saved = (getattr(torch, name).itemsize for name in (dtype, artifact.dtype))
    needed = sum(sizes) * wanted // saved
    there = next(folder for folder in (out_dir, *out_dir.absolute().parents) if folder.is_dir())
    if (free := shutil.disk_usage(there).free) < needed:
        raise UserError(
            f"cannot write {out_dir}: the merged model needs {needed / 1e9:.3g} GB, and {free / 1e9:.3g} GB are free"
        )


def _refuse_to_overwrite(out_dir: Path) -> None:
    if out_dir.is_dir() and not any(out_dir.iterdir()):
        return
    if out_dir.exists():
        raise UserError(f"{out_dir} exists already; give a new folder")
