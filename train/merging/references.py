"""Logits that a merged model must have: the logits of training, and those of the adapter on its base."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from data.checkpoint_files import ADAPTER_CONFIG, read_json
from data.errors import UserError
from train.merging.adapted import Adapted, Residuals, put_adapter
from train.merging.base import BaseWeights, Quantization, multiply_in_8_bits
from train.merging.layout import Layout
from train.merging.streamed import arithmetic_of, device, streamed_logits
from train.merging.tensors import Tensors
from train.merging.verdict import QUANTISED_TOLERANCE, TOLERANCES, check_difference
from train.model.bare import bare_model, give_buffers
from train.model.fingerprint import check_logits, difference_of
from train.model.token_rows import token_ids_of
from train.results.artifact import Artifact
from train.results.identity import missing_fingerprint


@dataclass(frozen=True)
class Reference:
    """Logits that a merged model must have. whose: how a message calls them. limit: the largest relative difference."""

    logits: torch.Tensor
    whose: str
    limit: float

    def check(self, found: torch.Tensor, dtype: str) -> float:
        """Return how far off logits are that weights of a number type gave. Raises UserError where it is too far."""
        return check_difference(found, self.logits, self.limit, "the merged model's logits", self.whose, dtype)


def adapt(artifact: Artifact, token_ids: list[int], in_8_bits: Layout | None = None) -> Adapted:
    """Return the adapter on a bare model that can be run. in_8_bits: its layout, where the decoder multiplies so."""
    model = bare_model(artifact.config, token_ids)
    give_buffers(model, device())
    if in_8_bits is not None:
        multiply_in_8_bits(model, in_8_bits)
    return put_adapter(artifact, model)


def tokens_of(artifact: Artifact) -> list[int]:
    """Return the ids of the new tokens that an adapter brings rows for."""
    if artifact.adapter_weights is None:
        return []
    return token_ids_of(read_json(artifact.adapter_weights.with_name(ADAPTER_CONFIG)))


@dataclass(frozen=True)
class Bases:
    """An adapter's base in full precision, and as training rounded it, None where it did not. onto: which of them the
    adapter is merged into, "full" or "quantized"."""

    full: BaseWeights
    quantised: BaseWeights | None
    onto: str

    @property
    def chosen(self) -> BaseWeights:
        return self.quantised if self.quantised is not None and self.onto == "quantized" else self.full


def bases_of(artifact: Artifact, layout: Layout, onto: str) -> Bases:
    """Return the weights that an adapter stands on; nothing is read yet."""
    tensors, dtype = Tensors(artifact.base, artifact.revision), getattr(torch, artifact.dtype)
    full = BaseWeights(tensors, layout, dtype, tokens_of(artifact))
    if artifact.quantization is None:
        return Bases(full, None, onto)
    settings = artifact.recipe["model"]
    trained_in = artifact.fingerprint.dtype if artifact.fingerprint else settings.get("dtype") or artifact.dtype
    double = settings.get("double_quantization", True)
    rounding = Quantization(artifact.quantization, getattr(torch, trained_in), double)
    return Bases(full, replace(full, quantization=rounding), onto)


def references(
    artifact: Artifact,
    adapted: Adapted,
    bases: Bases,
    inputs: Mapping[str, torch.Tensor],
    *,
    dtype: str,
    report: Callable[[str], None],
) -> list[Reference]:
    """Run the adapter on its bases, compare it with training, and return what the merged model must answer.

    The last reference is the strongest. Raises UserError where the adapter does not answer as in training.
    """
    kept, full, quantised, onto_quantised = artifact.fingerprint, bases.full, bases.quantised, bases.onto == "quantized"
    of_training = None if kept is None else kept.logits
    if kept is None:
        report(missing_fingerprint(artifact))
    elif of_training is None:
        report("training could not run the whole model at its end: the merged model is compared with the adapter's")
    limit = max(TOLERANCES[dtype], TOLERANCES[artifact.dtype])
    rounded = None
    if quantised is not None and (of_training is not None or onto_quantised):
        rounded = _on_quantised(artifact, quantised, inputs, report)
    wanted = streamed_logits(
        adapted.model,
        Residuals(full, adapted),
        inputs,
        arithmetic_of(full.dtype),
        "running the adapter",
    )
    if rounded is not None:
        _report_both(artifact, wanted, rounded, of_training, report)
    if onto_quantised:
        assert rounded is not None
        wanted = rounded
    found = [Reference(wanted, "the adapter's", limit)]
    if kept is not None and of_training is not None and (quantised is None or onto_quantised):
        limit = max(limit, kept.tolerance, QUANTISED_TOLERANCE if quantised else 0)
        check_logits(kept, wanted, inputs["input_ids"], artifact.name_or_path, limit)
        found.append(Reference(of_training, "those at the end of training", limit))
    return found


def _on_quantised(
    artifact: Artifact, base: BaseWeights, inputs: Mapping[str, torch.Tensor], report: Callable[[str], None]
) -> torch.Tensor:
    """Return the adapter's logits on the base as training rounded it, compared with training's.

    That is the only comparison with training there is for it: nobody has seen its logits on the unquantised base.
    """
    kept, kind = artifact.fingerprint, base.quantization
    assert kind is not None
    adapted = adapt(artifact, base.token_ids, in_8_bits=base.layout if kind.kind == "int8" else None)
    what = f"running on {kind.kind}"
    logits = streamed_logits(adapted.model, Residuals(base, adapted), inputs, arithmetic_of(kind.dtype), what)
    if kept is not None and kept.logits is not None:
        limit = max(kept.tolerance, QUANTISED_TOLERANCE)
        difference = check_logits(kept, logits, inputs["input_ids"], artifact.name_or_path, limit)
        report(f"on the base in {kind.kind}, logits differ from those of training by {difference:.1e}")
    return logits


def _report_both(
    artifact: Artifact,
    full: torch.Tensor,
    rounded: torch.Tensor,
    of_training: torch.Tensor | None,
    report: Callable[[str], None],
) -> None:
    if of_training is None:
        report(f"on the full-precision base, logits differ from those on {artifact.quantization} by "
               f"{difference_of(full, rounded):.1e}")  # fmt: skip
    else:
        report(f"on the full-precision base, logits differ from those of training by "
               f"{difference_of(full, of_training):.1e}")  # fmt: skip


def check_onto(artifact: Artifact) -> None:
    """Raise UserError for an adapter that cannot be merged onto quantised weights."""
    if artifact.quantization not in ("nf4", "fp4"):
        found = f"in {artifact.quantization}" if artifact.quantization else "that was not quantised"
        raise UserError(
            f"--onto quantized: {artifact.name_or_path} was trained on a base {found}; it is for adapters of nf4 and "
            "fp4, whose weights can be written as they were multiplied"
        )
