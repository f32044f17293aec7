"""A Video-LLaVA from a CLIP vision checkpoint, a LLaMA-like checkpoint and a random projector."""

import copy
import math

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
    VideoLlavaProcessor,
)

from data.errors import UserError, first_line
from data.video_llava import NUM_FRAMES, PLACEHOLDERS
from train.model.build import build_processor

PAD_TOKEN = "<pad>"


def model_from_parts(
    vision: str, text: str, dtype: torch.dtype, seed: int = 0
) -> tuple[VideoLlavaForConditionalGeneration, VideoLlavaProcessor]:
    """Make a model whose towers are both `vision` and whose decoder is `text`; each is a folder or a hub id.

    The text's embeddings grow by the tokens that its tokenizer lacks; the projector is drawn from N(0, 1/fan_in).
    """
    tower, decoder, tokenizer = load_tower(vision, dtype), load_decoder(text, dtype), load_tokenizer(text)
    torch.manual_seed(seed)
    add_tokens(tokenizer)
    if len(tokenizer) > decoder.config.vocab_size:  # some checkpoints have embeddings to spare
        decoder.resize_token_embeddings(len(tokenizer))  # the new ones are drawn around the others' mean
    decoder.config.pad_token_id = tokenizer.pad_token_id
    assert isinstance(tower.config, CLIPVisionConfig)
    config = join_configs(tower.config, decoder.config, tokenizer)
    with torch.device("meta"):  # the weights come from the parts: none is made twice
        model = VideoLlavaForConditionalGeneration(config)
    model.model.image_tower, model.model.video_tower = tower, copy.deepcopy(tower)
    model.model.language_model, model.lm_head = decoder.model, decoder.lm_head
    model.model.multi_modal_projector.to_empty(device="cpu").to(dtype)
    for layer in (model.model.multi_modal_projector.linear_1, model.model.multi_modal_projector.linear_2):
        torch.nn.init.normal_(layer.weight, std=1 / math.sqrt(layer.in_features))
        torch.nn.init.zeros_(layer.bias)
    return model.eval(), build_processor(tokenizer, *square(tower.config))


def square(config: CLIPVisionConfig) -> tuple[int, int]:
    """Return the edges of a picture and of a patch; raises UserError where either is not square."""
    image, patch = config.image_size, config.patch_size
    if not isinstance(image, int) or not isinstance(patch, int):
        raise UserError(f"--vision: pictures of {image} and patches of {patch} pixels; Video-LLaVA's are square")
    return image, patch


def join_configs(
    vision_config: CLIPVisionConfig, text_config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase
) -> VideoLlavaConfig:
    """Return Video-LLaVA's config around those of its parts."""
    image, patch = square(vision_config)
    num_patches, ids = (image // patch) ** 2, tokenizer.get_vocab()
    return VideoLlavaConfig(
        vision_config=vision_config,
        text_config=text_config,
        image_token_index=ids[PLACEHOLDERS["image"]],
        video_token_index=ids[PLACEHOLDERS["video"]],
        image_seq_length=num_patches,
        video_seq_length=(num_patches + 1) * NUM_FRAMES,
        tie_word_embeddings=text_config.tie_word_embeddings,
    )


def load_tower(name_or_path: str, dtype: torch.dtype) -> PreTrainedModel:
    """Load the vision half of a CLIP, or a CLIP vision model by itself."""
    config = read_config(name_or_path, "--vision")
    if config.model_type not in ("clip", "clip_vision_model"):
        raise UserError(f"--vision {name_or_path}: is a {config.model_type!r} model; Video-LLaVA's towers are CLIP")
    return load_whole(CLIPVisionModel, name_or_path, dtype, "--vision")


def load_decoder(name_or_path: str, dtype: torch.dtype) -> PreTrainedModel:
    """Load a causal language model that is built like LLaMA: a decoder `model` under an `lm_head`."""
    read_config(name_or_path, "--text")
    decoder = load_whole(AutoModelForCausalLM, name_or_path, dtype, "--text")
    if [name for name, _ in decoder.named_children()] != ["model", "lm_head"]:
        raise UserError(f"--text {name_or_path}: a {type(decoder).__name__} is not built like LLaMA (model, lm_head)")
    return decoder


def load_whole(
    model_class: type[CLIPVisionModel] | type[AutoModelForCausalLM], name_or_path: str, dtype: torch.dtype, option: str
) -> PreTrainedModel:
    """Load a model; missing weights, of which transformers only warns, raise UserError."""
    try:
        # pyrefly: ignore[not-iterable]  with output_loading_info it returns a pair, which its stubs leave out
        model, loading = model_class.from_pretrained(
            name_or_path, dtype=dtype, output_loading_info=True, trust_remote_code=False
        )
    except Exception as problem:  # whatever a library makes of a stranger's file
        raise UserError(f"{option} {name_or_path}: cannot load it: {first_line(problem)}") from problem
    if missing := sorted(loading["missing_keys"]):
        raise UserError(f"{option} {name_or_path}: lacks {len(missing)} weights, the first {missing[0]}")
    return model


def load_tokenizer(name_or_path: str) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
    except Exception as problem:  # whatever a library makes of a stranger's file
        reason = first_line(problem)
        raise UserError(f"--text {name_or_path}: cannot load its tokenizer: {reason}") from problem
    assert tokenizer is not None
    return tokenizer


def read_config(name_or_path: str, option: str) -> PreTrainedConfig:
    try:
        return AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
    except Exception as problem:  # whatever a library makes of a stranger's file
        raise UserError(f"{option} {name_or_path}: cannot load it: {first_line(problem)}") from problem


def add_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    """Give the tokenizer <image>, <video> and, where it has none, a padding token."""
    tokenizer.add_tokens(list(PLACEHOLDERS.values()), special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
