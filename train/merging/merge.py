"""An adapter merged into its base: a full model that loads without PEFT, checked before it is kept.

The sum is made in float32, tensor by tensor, in unquantised weights, and rounded once at the end. An adapter trained
on a 4-bit base is merged into the same base in full precision, or into what the 4 bits stand for: 4-bit weights cannot
hold the sum, and rounding it to 4 bits again would lose most of what was learned.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import VideoLlavaForConditionalGeneration, VideoLlavaProcessor

from data.checkpoint_files import find_file
from data.errors import UserError, in_words, many, way_out, with_way_out
from data.files import check_folder, is_disk_problem, remove_killed, whole_folder
from data.processor_files import save_processor
from train.card.model_card import CARD, make_card
from train.merging.adapted import Residuals
from train.merging.base import BaseWeights
from train.merging.layout import Layout, layout_of, shards_of_size
from train.merging.references import Bases, Reference, adapt, bases_of, check_onto, references, tokens_of
from train.merging.streamed import arithmetic_of, device, streamed_logits
from train.merging.sums import Sums
from train.merging.tensors import Tensors, Weights
from train.merging.writing import check_written, write_model
from train.model.bare import bare_model, give_buffers
from train.model.fingerprint import TOLERANCES, Fingerprint, reference_inputs, save_fingerprint
from train.model.weight_files import identify_base, weight_files
from train.preprocessing.contract import PREPROCESSING
from train.results.artifact import Artifact, open_artifact
from train.results.identity import check_digests
from train.results.loading import greedy, processor_of
from train.run_folder.provenance import PROVENANCE


@dataclass(frozen=True)
class MergeOptions:
    """base: in place of the one that adapters name. dtype: to save in; None keeps that of the base. onto: "full", or
    "quantized" for what the base was in training. max_shard_size: of a file of weights, a number with a unit."""

    base: str | None = None
    dtype: str | None = None
    onto: str = "full"
    max_shard_size: str = "5GB"


AS_IT_IS = MergeOptions()


def merge_adapter(
    adapter: str, out_dir: Path, options: MergeOptions = AS_IT_IS, report: Callable[[str], None] = print
) -> None:
    """Merge, write, read again and compare; `report` gets a line for the user on each step.

    The sum is made on the CPU, one tensor at a time; models run one layer at a time. `out_dir` appears only when
    everything in it is written and checked. Raises UserError otherwise.
    """
    refuse_to_overwrite(out_dir)
    artifact = open_adapter(adapter, options)
    what = product_of(artifact, out_dir, options)
    report(base_in_words(artifact, options))
    if artifact.quantization and options.onto == "full":
        report(f"trained on a base in {artifact.quantization}, which cannot hold the sum: merged into full precision")

    sums, wanted = checked_sums(artifact, bases_of(artifact, what.layout, options.onto), what, report)
    told = write_product(what, out_dir, sums, wanted, lambda folder: _write_beside(folder, artifact, out_dir.name))
    report(f"merged {many(len(sums.adapted.layers), 'layer')}; {told}")
    report(size_of(out_dir, what.dtype))


@dataclass(frozen=True)
class Product:
    """A model to be written. artifact: the adapter that is merged, or the first of several; model: bare, with the
    `layout` of what is written; inputs: those of reference logits."""

    artifact: Artifact
    dtype: str
    max_shard_size: str
    processor: VideoLlavaProcessor
    model: VideoLlavaForConditionalGeneration
    layout: Layout
    inputs: Mapping[str, torch.Tensor]


def product_of(artifact: Artifact, out_dir: Path, options: MergeOptions) -> Product:
    """Return what merging will write. Raises UserError where there is no room for it, or where adapter or base are not
    those of training."""
    shards_of_size({}, {}, options.max_shard_size)
    dtype = options.dtype or artifact.dtype
    _refuse_without_room(artifact, out_dir, dtype)
    check_digests(artifact)
    model, processor = bare_model(artifact.config, tokens_of(artifact)), processor_of(artifact)
    inputs = reference_inputs(processor)
    return Product(artifact, dtype, options.max_shard_size, processor, model, layout_of(model), inputs)


def checked_sums(
    artifact: Artifact, bases: Bases, what: Product, report: Callable[[str], None]
) -> tuple[Sums, list[Reference]]:
    """Return what merging an adapter alone writes, after it has answered as in training, and the logits that this must
    have. Raises UserError where it answers otherwise."""
    adapted = adapt(artifact, tokens_of(artifact))
    wanted = references(artifact, adapted, bases, what.inputs, dtype=what.dtype, report=report)
    return Sums(adapted, Residuals(bases.chosen, adapted), what.layout), wanted


def base_in_words(artifact: Artifact, options: MergeOptions) -> str:
    rounded_to = "not quantised" if options.onto == "full" else artifact.quantization
    return f"base: {artifact.base} ({artifact.dtype}, {rounded_to})"


def write_product(
    what: Product, out_dir: Path, weights: Weights, wanted: list[Reference], write_beside: Callable[[Path], None]
) -> str:
    """Write a model with its processor, read it again, compare it, and return what to tell of its logits.

    write_beside: writes what tells of its training. The last of `wanted` is the strongest reference.
    """
    with complete_folder(out_dir) as folder:
        digests = write_model(
            folder,
            what.model,
            what.layout,
            weights,
            dtype=getattr(torch, what.dtype),
            max_shard_size=what.max_shard_size,
            generation=greedy(what.processor.tokenizer),
        )
        save_processor(what.processor, folder)
        write_beside(folder)
        digest = check_written(folder, digests)
        found, computed_in = logits_of_written(str(folder), what.artifact, what.layout, what.dtype, what.inputs)
        difference = [reference.check(found, what.dtype) for reference in wanted][-1]
        _keep_fingerprint(folder, what, wanted[-1], digest)
    strongest = wanted[-1]
    told = f"{difference:.1e} of {strongest.limit:.0e}"
    return f"logits, computed in {computed_in}, differ from {strongest.whose} by {told}"


def size_of(out_dir: Path, dtype: str) -> str:
    """Return what to tell of a model that was written and compared."""
    size = sum(file.stat().st_size for file in out_dir.iterdir())
    return f"saved {out_dir}: {dtype}, {size / 1e9:.3g} GB, read again bit for bit"


def open_adapter(adapter: str, options: MergeOptions) -> Artifact:
    """Return what is there of an adapter. Raises UserError for what can be told without reading a weight."""
    artifact = open_artifact(adapter, options.base)
    if not artifact.is_adapter:
        raise UserError(f"{adapter} is a full model, not an adapter: there is nothing to merge")
    if options.onto == "quantized":
        check_onto(artifact)
    return artifact


def _write_beside(folder: Path, artifact: Artifact, name: str) -> None:
    """Write what tells of a merged model's training."""
    kept = [find_file(artifact.name_or_path, name) for name in (PROVENANCE, PREPROCESSING)]
    for file in (artifact.recipe_file, *kept):
        if file:
            shutil.copyfile(file, folder / file.name)
    (folder / CARD).write_text(make_card(folder, name, artifact.base), encoding="utf-8")


def logits_of_written(
    name: str, artifact: Artifact, layout: Layout, dtype: str, inputs: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, str]:
    """Return the logits of a model's files, and the number type that they were computed in.

    artifact: has the config that the model was made with, of which `layout` is.
    """
    saved_in = getattr(torch, dtype)
    computed_in = arithmetic_of(saved_in)
    model = bare_model(artifact.config, tokens_of(artifact))
    give_buffers(model, device())
    logits = streamed_logits(model, BaseWeights(Tensors(name), layout, saved_in), inputs, computed_in, "checking")
    return logits, str(computed_in).removeprefix("torch.")


def _keep_fingerprint(folder: Path, what: Product, reference: Reference, digest: str) -> None:
    """Leave beside the model what it can be compared with later on."""
    artifact = what.artifact
    kept = artifact.fingerprint
    save_fingerprint(
        folder,
        Fingerprint(
            base=kept.base if kept else identify_base(artifact.base, artifact.revision),
            dtype=what.dtype,
            quantization=None,
            input_ids=what.inputs["input_ids"],
            logits=reference.logits,
            weights=digest,
            checked_to=max(reference.limit, TOLERANCES[what.dtype]),  # other machines sum in other orders
        ),
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
            f"cannot write {out_dir}: {in_words(problem)}; nothing was kept: {way_out(problem)}, and give the same "
            "command again"
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


def refuse_to_overwrite(out_dir: Path) -> None:
    """Raise UserError where there is something already, or where no folder can be made: before the work, not after."""
    try:
        if out_dir.is_dir() and not any(out_dir.iterdir()):
            return
        if os.path.lexists(out_dir):
            raise UserError(f"{out_dir} exists already; give a new folder")
        check_folder(out_dir)
    except OSError as problem:
        raise UserError(f"cannot write {out_dir}: {with_way_out(problem)}") from problem
