"""The agreement of adapters that are to be one model: on the base, the tokens, and the way to ask them."""

from collections.abc import Sequence
from typing import Any

from transformers import VideoLlavaProcessor

from data.errors import UserError
from train.merging.base import BaseWeights
from train.merging.references import tokens_of
from train.model.weight_files import ADAPTER_WEIGHTS, digest_of_files, identify_base
from train.preprocessing.contract import Preprocessing, first_difference, preprocessing_with
from train.results.artifact import Artifact
from train.results.identity import SHOWN
from train.results.loading import processor_of

LONGEST = 60  # letters of a value in a message


def agree_on_base(artifacts: Sequence[Artifact]) -> None:
    """Raise UserError unless all adapters stand on the same weights, and are different adapters."""
    first, *others = artifacts
    wanted = identify_base(first.base, first.revision).digest
    seen = {_digest(first): first.name_or_path}
    for other in others:
        found = identify_base(other.base, other.revision).digest
        if found != wanted:
            raise UserError(
                f"{other.name_or_path} stands on another base than {first.name_or_path}: {other.base} (SHA-256 "
                f"{found[:SHOWN]}) instead of {first.base} ({wanted[:SHOWN]}); take adapters of one base"
            )
        if (name := seen.setdefault(_digest(other), other.name_or_path)) != other.name_or_path:
            raise UserError(
                f"{other.name_or_path} is the same adapter as {name}: the same {ADAPTER_WEIGHTS}; give it once, with "
                "one weight"
            )


def agree_on_inputs(artifacts: Sequence[Artifact]) -> Preprocessing:
    """Return how the mixture is asked: as each of its adapters was trained. Raises UserError naming what differs."""
    first, *others = artifacts
    processor = processor_of(first)
    kept, vocabulary = _preprocessing(first, processor), processor.tokenizer.get_vocab()
    for other in others:
        theirs = processor_of(other)
        if found := first_difference(kept, _preprocessing(other, theirs)):
            key, wanted, value = found
            raise UserError(
                f"{other.name_or_path} was trained with {key} {_shown(value)}, and {first.name_or_path} with "
                f"{_shown(wanted)}: one model cannot be asked in both ways; mix adapters that were trained alike"
            )
        if tokens := sorted(vocabulary.items() ^ theirs.tokenizer.get_vocab().items()):
            raise UserError(
                f"{other.name_or_path} has other tokens than {first.name_or_path}, such as {tokens[0][0]!r}: train "
                "both with the same model.add_tokens"
            )
    return kept


def agree_on_rows(artifacts: Sequence[Artifact]) -> None:
    """Raise UserError unless embeddings get the same new rows with all adapters."""
    first, *others = artifacts
    text: Any = first.config.get_text_config()
    for other in others:
        ids = [tokens_of(each) for each in (first, other)]
        if ids[0] != ids[1] and max([0, *ids[0], *ids[1]]) >= text.vocab_size:
            raise UserError(
                f"{other.name_or_path} trains the embeddings of other new tokens than {first.name_or_path}: train both "
                "with the same model.add_tokens"
            )


def agree_on_quantization(artifacts: Sequence[Artifact], bases: Sequence[BaseWeights]) -> None:
    """Raise UserError unless training rounded the base in one way for all adapters."""
    for artifact, base in zip(artifacts[1:], bases[1:], strict=True):
        if base.quantization != bases[0].quantization:
            raise UserError(
                f"--onto quantized: {artifact.name_or_path} was trained on a base that was rounded in another way than "
                f"that of {artifacts[0].name_or_path} (model.quantization, dtype or double_quantization); leave it out "
                "to merge onto the full-precision base"
            )


def _preprocessing(artifact: Artifact, processor: VideoLlavaProcessor) -> Preprocessing:
    kept = artifact.preprocessing
    way = kept.trained_with if kept else artifact.sampling.way
    return preprocessing_with(processor, artifact.num_frames, artifact.sampling, way, artifact.system_prompt)


def _digest(artifact: Artifact) -> str:
    assert artifact.adapter_weights is not None
    return digest_of_files([artifact.adapter_weights])


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
