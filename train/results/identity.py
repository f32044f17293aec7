"""Check that a trained model is still the one that training left, on the base that it was trained on."""

import hashlib
import json
import sys

from torch import nn
from transformers import VideoLlavaProcessor

from data.checkpoint_files import ADAPTER_CONFIG, read_json
from data.command import is_first_rank
from data.errors import UserError, visible
from train.model.fingerprint import check_logits, last_logits, reference_inputs, settings_digest
from train.model.weight_files import ADAPTER_WEIGHTS, BaseIdentity, digest_of_files, identify_base
from train.results.artifact import Artifact

SHOWN = 12  # characters of a digest in a message: enough to compare by eye


def notice(text: str) -> None:
    """Tell the user on stderr, once for all processes: stdout is for answers."""
    if is_first_rank():
        print(visible(f"notice: {text}"), file=sys.stderr, flush=True)


def missing_fingerprint(artifact: Artifact) -> str:
    """Return what to tell of an adapter that an earlier version trained."""
    return (
        f"{artifact.name_or_path} has no fingerprint: it was trained by an earlier version, and whether "
        f"{artifact.base} is the base that it was trained on cannot be told"
    )


def check_digests(artifact: Artifact, any_base: bool = False) -> None:
    """Compare the bytes of an adapter and of its base with those of training; UserError where they are others.

    any_base: another base is what the user wants.
    """
    kept = artifact.fingerprint
    if kept is None or artifact.adapter_weights is None:
        return
    name = artifact.name_or_path
    settings = read_json(artifact.adapter_weights.with_name(ADAPTER_CONFIG))
    if kept.settings != settings_digest(settings):
        raise UserError(f"{name}: {ADAPTER_CONFIG} has other settings than training saved; restore it")
    if kept.adapter != digest_of_files([artifact.adapter_weights]):
        raise UserError(f"{name}: {ADAPTER_WEIGHTS} is not the file that training saved; restore it")
    if any_base:
        return
    if difference := difference_of_base(artifact, kept.base):
        raise UserError(
            f"{name} was not trained on {artifact.base}: the weights there are others ({difference}); give the base "
            "that it was trained on with --base (to let it answer all the same, generate.py and evaluate.py take "
            "--any-base)"
        )


def difference_of_base(artifact: Artifact, wanted: BaseIdentity) -> str | None:
    """Return how the weights of an artifact's base differ from those of training, None where they are the same."""
    found = identify_base(artifact.base, artifact.revision)
    if found.digest == wanted.digest:
        return None
    commit = f", commit {wanted.commit} on the hub" if wanted.commit else ""
    return f"SHA-256 {found.digest[:SHOWN]} instead of {wanted.digest[:SHOWN]}{commit}"


def check_answers(
    artifact: Artifact, model: nn.Module, processor: VideoLlavaProcessor, dtype: str, quantization: str | None
) -> None:
    """Compare a loaded model's logits with those of training, where it is loaded as it was trained."""
    kept = artifact.fingerprint
    if kept is not None and kept.logits is not None and (dtype, quantization) == (kept.dtype, kept.quantization):
        inputs = reference_inputs(processor)
        check_logits(kept, last_logits(model, inputs), inputs["input_ids"], artifact.name_or_path)


def model_digest(artifact: Artifact, dtype: str, quantization: str | None) -> str:
    """Return a SHA-256 of everything that decides a model's answers: all weights, settings, number types."""
    parts = [identify_base(artifact.base, artifact.revision).digest, dtype, quantization]
    if artifact.adapter_weights is not None:
        settings = read_json(artifact.adapter_weights.with_name(ADAPTER_CONFIG))
        parts += [digest_of_files([artifact.adapter_weights]), settings_digest(settings)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
