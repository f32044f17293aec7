"""The summary of an evaluation -> figures by name, as logs, trackers and training.metric_for_best_model know them."""

from collections.abc import Iterator, Mapping
from typing import Any

from train.loop.hooks import Losses

MODALITY = "modality/"  # before the name of a modality; no name of a source has a slash
LOW, HIGH = "accuracy_low", "accuracy_high"


def with_losses(summary: Mapping[str, Any], losses: Losses) -> dict[str, Any]:
    """Return the summary with the `loss` of all, of each source and of each modality."""
    told = {**summary, **_loss(list(losses.values()))}
    for place, name in enumerate(("sources", "modalities")):
        known = {part[place] for part in losses}
        own = {key: [each for part, each in losses.items() if part[place] == key] for key in sorted(known)}
        parts = {key: _loss(each) for key, each in own.items()}
        told[name] = {key: {**summary[name].get(key, {}), **parts.get(key, {})} for key in [*summary[name], *parts]}
    return told


def figures_of(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return accuracy and loss of all, of SOURCE/ and of modality/; those of the only modality are those of all."""
    found = dict(_figures(summary, ""))
    for name, part in summary["sources"].items():
        found |= _figures(part, f"{name}/")
    if len(summary["modalities"]) > 1:
        for name, part in summary["modalities"].items():
            found |= _figures(part, f"{MODALITY}{name}/")
    return found


def _figures(part: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    if part.get("accuracy") is not None:
        yield f"{prefix}accuracy", part["accuracy"]
        yield f"{prefix}{LOW}", part["interval"][0]
        yield f"{prefix}{HIGH}", part["interval"][1]
        yield f"{prefix}questions", part["questions"]
        yield f"{prefix}left_out", part["left_out"]
    if part.get("questions_per_s") is not None:
        yield f"{prefix}questions_per_s", part["questions_per_s"]
    if prefix and "loss" in part:
        yield f"{prefix}loss", part["loss"]


def _loss(parts: list[tuple[float, float]]) -> dict[str, float]:
    num_tokens = sum(number for _, number in parts)
    return {"loss": sum(total for total, _ in parts) / num_tokens} if num_tokens else {}
