"""A Video-LLaVA from a CLIP vision checkpoint, a LLaMA-like checkpoint and a random projector."""

import copy
import math

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPVisionModel,
    PreTrainedTokenizerBase,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
    VideoLlavaProcessor,
)

from data.errors import UserError, first_line
from data.video_llava import PLACEHOLDERS
from train.model.build import build_processor

NUM_FRAMES = 8
PAD_TOKEN = "<pad>"


def model_from_parts(
    vision: str, text: str, dtype: torch.dtype, seed: int = 0
) -> tuple[VideoLlavaForConditionalGeneration, VideoLlavaProcessor]:
    """`vision` becomes both towers, `text` the decoder; each is a folder or a hub id.

    The text's embeddings grow by the tokens that its tokenizer lacks; the projector is drawn from N(0, 1/fan_in).
    """
    tower, decoder, tokenizer = load_tower(vision, dtype), load_decoder(text, dtype), load_tokenizer(text)
    torch.manual_seed(seed)
    add_tokens(tokenizer)
    if len(tokenizer) > decoder.config.vocab_size:  # some checkpoints have rows to spare
        decoder.resize_token_embeddings(len(tokenizer))  # the new rows are drawn around the others' mean
    decoder.config.pad_token_id = tokenizer.pad_token_id
    config = join_configs(tower.config, decoder.config, tokenizer)
    with torch.device("meta"):  # the weights come from the parts: none is made twice
        model = VideoLlavaForConditionalGeneration(config)
    model.model.image_tower, model.model.video_tower = tower, copy.deepcopy(tower)
    model.model.language_model, model.lm_head = decoder.model, decoder.lm_head
    model.model.multi_modal_projector.to_empty(device="cpu").to(dtype)
    for layer in (model.model.multi_modal_projector.linear_1, model.model.multi_modal_projector.linear_2):
        torch.nn.init.normal_(layer.weight, std=1 / math.sqrt(layer.in_features))
        torch.nn.init.zeros_(layer.bias)
    processor = build_processor(tokenizer, tower.config.image_size)
    processor.patch_size = tower.config.patch_size
    return model.eval(), processor


def join_configs(vision_config, text_config, tokenizer: PreTrainedTokenizerBase) -> VideoLlavaConfig:
    """Video-LLaVA's config around those of its parts."""
    num_patches = (vision_config.image_size // vision_config.patch_size) ** 2
    return VideoLlavaConfig(
        vision_config=vision_config,
        text_config=text_config,
        image_token_index=tokenizer.convert_tokens_to_ids(PLACEHOLDERS["image"]),
        video_token_index=tokenizer.convert_tokens_to_ids(PLACEHOLDERS["video"]),
        image_seq_length=num_patches,
        video_seq_length=(num_patches + 1) * NUM_FRAMES,
        tie_word_embeddings=text_config.tie_word_embeddings,
    )


def load_tower(name_or_path: str, dtype: torch.dtype) -> CLIPVisionModel:
    """The vision half of a CLIP, or a CLIP vision model by itself."""
    config = read_config(name_or_path, "--vision")
    if config.model_type not in ("clip", "clip_vision_model"):
        raise UserError(f"--vision {name_or_path}: is a {config.model_type!r} model; Video-LLaVA's towers are CLIP")
    return load_whole(CLIPVisionModel, name_or_path, dtype, "--vision")


def load_decoder(name_or_path: str, dtype: torch.dtype):
    """A causal language model that is built like LLaMA: a decoder `model` under an `lm_head`."""
    read_config(name_or_path, "--text")
    decoder = load_whole(AutoModelForCausalLM, name_or_path, dtype, "--text")
    if [name for name, _ in decoder.named_children()] != ["model", "lm_head"]:
        raise UserError(f"--text {name_or_path}: a {type(decoder).__name__} is not built like LLaMA (model, lm_head)")
    return decoder


def load_whole(model_class, name_or_path: str, dtype: torch.dtype, option: str):
    """from_pretrained, where transformers' warning about missing weights is an error."""
    try:
        model, loading = model_class.from_pretrained(name_or_path, dtype=dtype, output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as problem:
        raise UserError(f"{option} {name_or_path}: cannot load it: {first_line(problem)}") from problem
    if missing := sorted(loading["missing_keys"]):
        raise UserError(f"{option} {name_or_path}: lacks {len(missing)} weights, the first {missing[0]}")
    return model


def load_tokenizer(name_or_path: str) -> PreTrainedTokenizerBase:
    try:
        return AutoTokenizer.from_pretrained(name_or_path)
    except (OSError, ValueError) as problem:
        reason = first_line(problem)
        raise UserError(f"--text {name_or_path}: cannot load its tokenizer: {reason}") from problem


def read_config(name_or_path: str, option: str):
    try:
        return AutoConfig.from_pretrained(name_or_path)
    except (OSError, ValueError) as problem:
        raise UserError(f"{option} {name_or_path}: cannot load it: {first_line(problem)}") from problem


def add_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    """Give the tokenizer <image>, <video> and, where it has none, a padding token."""
    tokenizer.add_tokens(list(PLACEHOLDERS.values()), special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
