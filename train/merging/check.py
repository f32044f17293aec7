"""A merged model, looked at once more: are its files, and its answers, still those that merging left?"""

from collections.abc import Callable

from data.checkpoint_files import find_file
from data.errors import UserError
from train.card.mixture import MIXTURE
from train.merging.layout import layout_of
from train.merging.merge import logits_of_written
from train.merging.writing import check_places_of, read_digests
from train.model.bare import bare_model
from train.model.fingerprint import FINGERPRINT, check_logits, reference_inputs
from train.model.weight_files import combined_digest
from train.results.artifact import open_artifact
from train.results.loading import processor_of


def check_merged(name: str, report: Callable[[str], None] = print) -> None:
    """Compare a full model with the fingerprint beside it, layer by layer. Raises UserError where it is another model.

    Also a model that was trained in full has one. Both verdicts are reported: on the bytes, where merging left their
    digest, and on the logits.
    """
    artifact = open_artifact(name)
    if artifact.is_adapter:
        raise UserError(f"--check-only: {name} is an adapter; merging checks it, and what it makes")
    kept = artifact.fingerprint
    if kept is None or kept.logits is None:
        raise UserError(
            f"--check-only: {name} has no {FINGERPRINT} with logits: there is nothing to compare it with; merge again"
        )
    problems = []
    if kept.weights is not None:
        is_same = combined_digest(read_digests(name)) == kept.weights
        report(f"weights: {'the bytes that merging wrote' if is_same else 'NOT the bytes that merging wrote'}")
        problems += [] if is_same else ["its weights are not those that merging wrote"]
    check_places_of(name)
    inputs = reference_inputs(processor_of(artifact))
    layout = layout_of(bare_model(artifact.config))
    found, computed_in = logits_of_written(name, artifact, layout, artifact.dtype, inputs)
    try:
        difference = check_logits(kept, found, inputs["input_ids"], name)
        whose = "those that merging kept" if find_file(name, MIXTURE) else "those of training"
        told = f"logits, computed in {computed_in}, differ from {whose} by {difference:.1e}"
        report(f"{told} of {kept.tolerance:.0e}")
    except UserError as problem:
        problems.insert(0, str(problem))
    if problems:
        raise UserError(f"check failed: {problems[0]}")
    report(f"{name} is the model that was checked when it was made")
