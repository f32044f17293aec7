"""Load a base model, an adapter on its base, or a merged model, with the processor that belongs to it."""

import warnings
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerBase,
    VideoLlavaForConditionalGeneration,
    VideoLlavaProcessor,
)

from data.checkpoint_files import ADAPTER_CONFIG, read_json
from data.errors import UserError, one_line
from data.processor import set_up_processor
from train.answering.decoding import AnyModel
from train.model.adapter_settings import INITS_BESIDE_BASE, check_patterns
from train.model.load import load_model
from train.model.token_rows import give_rows, token_ids_of
from train.preprocessing.contract import check_processor
from train.results.artifact import Artifact, open_artifact
from train.results.asking import Asking, ways_of_asking
from train.results.identity import check_answers, check_digests, missing_fingerprint, notice

LONGEST_REASON = 240  # letters: a name of a matrix and two shapes


@dataclass(frozen=True)
class Loading:
    """The way in which a model is loaded: `base` takes the place of the one that an adapter names; the others are
    those of `load`."""

    base: str | None = None
    dtype: str = "auto"
    quantization: str | None = None
    any_base: bool = False


def load(
    artifact: Artifact, dtype: str = "auto", quantization: str | None = None, any_base: bool = False
) -> tuple[AnyModel, VideoLlavaProcessor]:
    """Return model and processor, ready to answer: in eval mode, on the GPU if there is one, an adapter on its base.

    `dtype` "auto" is an adapter's in training, and that of saved weights else; `quantization` (nf4, fp4, int8) applies
    to the decoder alone. Raises UserError where the model is not what was trained, see `train.results.identity`;
    `any_base` lets another base pass.
    """
    if artifact.is_adapter and artifact.fingerprint is None:
        notice(missing_fingerprint(artifact))
    dtype = artifact.answering_dtype if dtype == "auto" else dtype
    processor = processor_of(artifact)
    check_digests(artifact, any_base)
    model = load_model(
        artifact.base,
        revision=artifact.revision,
        dtype=dtype,
        quantization=quantization,
        device_map={"": torch.cuda.current_device()} if torch.cuda.is_available() else None,
    )
    model.generation_config = greedy(processor.tokenizer)
    answering = (add_saved_adapter(model, artifact) if artifact.is_adapter else model).eval()
    if not any_base:
        check_answers(artifact, answering, processor, dtype, quantization)
    return answering, processor


def load_to_ask(
    name_or_path: str, how: Loading, num_frames: int | None, system_prompt: str | None
) -> tuple[AnyModel, VideoLlavaProcessor, Asking]:
    """Load a model by its name, and see how it is asked: as it was trained, but for what is not None."""
    artifact = open_artifact(name_or_path, how.base)
    asking = ways_of_asking(artifact, num_frames=num_frames, system_prompt=system_prompt)
    return *load(artifact, how.dtype, how.quantization, how.any_base), asking


def add_saved_adapter(
    model: VideoLlavaForConditionalGeneration, artifact: Artifact, dropout: float | None = None
) -> PeftModel:
    """Put a saved adapter on its base, to be trained with `dropout` where that is given.

    PEFT only warns about matrices without a place: here they are an error.
    """
    assert artifact.adapter_weights is not None
    settings = read_json(artifact.adapter_weights.with_name(ADAPTER_CONFIG))
    check_patterns(artifact.name_or_path, settings, [name for name, _ in model.named_modules()])
    give_rows(model, token_ids_of(settings), keeps_known=True)
    try:
        with safe_open(artifact.adapter_weights, framework="pt") as file:
            saved = set(file.keys())
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")
            warnings.filterwarnings("ignore", category=FutureWarning)  # PEFT asks transformers in old words
            adapted = PeftModel.from_pretrained(
                model, artifact.name_or_path, is_trainable=dropout is not None, config=_config_of(artifact, dropout)
            )
    except SafetensorError as problem:
        raise UserError(f"{artifact.adapter_weights} is damaged: {one_line(problem)}") from problem
    except Exception as problem:  # whatever PEFT makes of a stranger's file
        reason = first_misfit(problem)
        raise UserError(
            f"{artifact.name_or_path} does not fit its base {artifact.base}: {reason}; give the base it was trained on "
            "with --base"
        ) from problem
    check_places(artifact, saved, get_peft_model_state_dict(adapted, save_embedding_layers=False))
    return adapted


def check_places(artifact: Artifact, saved: Collection[str], places: Collection[str]) -> None:
    """Raise UserError unless every matrix of an adapter has a place, and every place a matrix."""
    if different := set(saved) ^ set(places):
        without, empty = set(saved) - set(places), set(places) - set(saved)
        raise UserError(
            f"{artifact.name_or_path} does not fit its base {artifact.base}: {len(without)} of its matrices "
            f"have no place and {len(empty)} places got none, such as {min(different)}; "
            "give the base it was trained on with --base"
        )


def _config_of(artifact: Artifact, dropout: float | None) -> LoraConfig:
    """Return PEFT's settings of an adapter; with `dropout` those to train it on with, which will be saved with it."""
    config = LoraConfig.from_pretrained(artifact.name_or_path)
    assert isinstance(config, LoraConfig)  # `check_adapter_settings` lets no other kind pass
    if config.init_lora_weights in INITS_BESIDE_BASE:
        config.init_lora_weights = True  # whatever they began at is overwritten: PEFT cannot do it on 4 bits
    if dropout is not None:
        config.lora_dropout, config.task_type = dropout, "CAUSAL_LM"
        config.base_model_name_or_path, config.revision = artifact.base, artifact.revision
    return config


def first_misfit(problem: Exception) -> str:
    """Return what does not fit in one short line: torch names every matrix, with both shapes, in one error."""
    head, *misfits = [line.strip() for line in str(problem).splitlines() if line.strip()] or [type(problem).__name__]
    if not misfits:
        return head[:LONGEST_REASON]
    others = f" (and {len(misfits) - 1} more)" if len(misfits) > 1 else ""
    return f"{misfits[0].rstrip('.')[:LONGEST_REASON]}{others}"


def processor_of(artifact: Artifact) -> VideoLlavaProcessor:
    """Return the processor saved with the artifact, else its base's, checked that it fits the model, and that it is the
    one of training."""
    where, revision = (artifact.name_or_path, None) if artifact.has_processor else (artifact.base, artifact.revision)
    processor = set_up_processor(where, revision, num_frames=artifact.num_frames, config=artifact.config)[0]
    if artifact.preprocessing is not None:
        check_processor(artifact.preprocessing, processor, artifact.name_or_path)
    return processor


def draw_answers(model: AnyModel, temperature: float, top_p: float) -> None:
    """Have a model that `load` returned draw its answers, from the words whose probabilities add up to `top_p`."""
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    base.generation_config.update(do_sample=True, temperature=temperature, top_p=top_p, top_k=0)


def greedy(tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """Return settings for greedy decoding that stops at the EOS that training taught.

    Checkpoints come with sampling settings, lengths and ids of other tokenizers, which make `generate` warn
    or run on, and `save_pretrained` refuse.
    """
    return GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
