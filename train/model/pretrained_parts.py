"""A Video-LLaVA from vision checkpoints, a causal language model and a random projector."""

import copy
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
    VideoLlavaProcessor,
)

from data.checkpoint_files import MODEL_FILES, PROCESSOR_FILES, check_files
from data.errors import UserError, first_line
from data.processor import check_geometry, measure_visual_tokens
from data.video_llava import (
    DECODERS,
    NUM_CLASS_TOKENS,
    NUM_FRAMES,
    PLACEHOLDERS,
    TOWERS,
    fit,
    is_used,
    num_extra_tokens,
    pixel_inputs,
    select_strategy,
)
from train.model.build import join_processor
from train.model.chat_template import choose_template

PAD_TOKEN = "<pad>"
VOCAB_MULTIPLE = 64  # embeddings of a decoder whose own number is one grow to one: kernels are faster for it
WHOLE_MODELS = ("clip", "siglip")  # have a vision model beside a text model
# What an image processor's settings say about pixels; Video-LLaVA's have the same names for the same.
PIXEL_SETTINGS = (
    *("do_resize", "size", "resample", "do_center_crop", "crop_size"),
    *("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std"),
)
# PIL and torchvision round otherwise when they resize: the largest mean difference of normalised pixels.
PIXEL_TOLERANCE = 0.05
NOT_OF_THE_BUILD = ("_name_or_path", "architectures", "dtype", "transformers_version")  # keys of a config


def model_from_parts(
    vision: str, text: str, dtype: torch.dtype, seed: int = 0, video_vision: str | None = None
) -> tuple[VideoLlavaForConditionalGeneration, VideoLlavaProcessor, list[str]]:
    """Make a model whose towers are both `vision`, or that for clips `video_vision`, and whose decoder is `text`; each
    is a folder or a hub id. Returns a line for the user on what is not as in the parts, too.

    The text's embeddings grow by the tokens that its tokenizer lacks; the projector is drawn from N(0, 1/fan_in).
    """
    tower_config = read_tower_config(vision, "--vision")
    pixels = pixel_settings(vision, "--vision")
    if video_vision is not None:
        check_alike(video_vision, tower_config, pixels)
    check_decoder(text)
    tokenizer = load_tokenizer(text)
    notices = add_tokens(text, tokenizer)
    processor = join_processor(
        tokenizer, pixels, tower_config.patch_size, num_extra_tokens(tower_config), select_strategy(tower_config)
    )
    check_pixels(vision, processor)
    config = whole_config(vision, tower_config, processor)

    torch.manual_seed(seed)
    tower = load_whole(AutoModel, vision, dtype, "--vision", config=tower_config)
    if video_vision is None:
        of_clips = copy.deepcopy(tower)
    else:
        of_clips = load_whole(AutoModel, video_vision, dtype, "--video-vision", config=tower_config)
    decoder = load_whole(AutoModelForCausalLM, text, dtype, "--text")
    assert [name for name, _ in decoder.named_children()] == ["model", "lm_head"]
    fit_embeddings(decoder, tokenizer)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(decoder.config, name, getattr(tokenizer, name))
    config.text_config, config.tie_word_embeddings = decoder.config, decoder.config.tie_word_embeddings
    with torch.device("meta"):  # the weights come from the parts: none is made twice
        model = VideoLlavaForConditionalGeneration(config)
    model.model.image_tower, model.model.video_tower = tower, of_clips
    model.model.language_model, model.lm_head = decoder.model, decoder.lm_head
    model.model.multi_modal_projector.to_empty(device="cpu").to(dtype)
    for layer in (model.model.multi_modal_projector.linear_1, model.model.multi_modal_projector.linear_2):
        torch.nn.init.normal_(layer.weight, std=1 / math.sqrt(layer.in_features))
        torch.nn.init.zeros_(layer.bias)
    return model.eval(), processor, notices


def whole_config(vision: str, vision_config: PreTrainedConfig, processor: VideoLlavaProcessor) -> VideoLlavaConfig:
    """Return Video-LLaVA's config around its tower's. UserError where the processor's pictures do not fit."""
    visual_tokens, ids = measure_visual_tokens(processor, NUM_FRAMES), processor.tokenizer.get_vocab()
    config = VideoLlavaConfig(
        vision_config=vision_config,
        image_token_index=ids[PLACEHOLDERS["image"]],
        video_token_index=ids[PLACEHOLDERS["video"]],
        vision_feature_select_strategy=select_strategy(vision_config),
        image_seq_length=visual_tokens.image,
        video_seq_length=visual_tokens.video,
    )
    check_geometry(f"--vision {vision}", config, processor, visual_tokens)
    return config


def read_tower_config(name_or_path: str, option: str) -> PreTrainedConfig:
    """Read the config of a vision model, or of the vision half of a CLIP or SigLIP; UserError for what is no tower."""
    config = read_config(name_or_path, option)
    if config.model_type in WHOLE_MODELS:
        config = config.vision_config
    if config.model_type not in NUM_CLASS_TOKENS:
        taken = ", ".join([*WHOLE_MODELS, *NUM_CLASS_TOKENS])
        raise UserError(f"{option} {name_or_path}: is a {config.model_type!r} model; towers can be {taken}")
    if not isinstance(config.image_size, int) or not isinstance(config.patch_size, int):
        raise UserError(
            f"{option} {name_or_path}: pictures of {config.image_size} and patches of {config.patch_size} pixels; "
            "Video-LLaVA's are square"
        )
    return config


def check_alike(name_or_path: str, other: PreTrainedConfig, pixels: Mapping[str, Any]) -> None:
    """Raise UserError where the tower of clips is of another build than that of pictures: they share one config."""
    found = read_tower_config(name_or_path, "--video-vision").to_dict() | pixel_settings(name_or_path, "--video-vision")
    wanted = other.to_dict() | dict(pixels)
    for name in ["model_type", *sorted((found.keys() | wanted) - set(NOT_OF_THE_BUILD))]:
        if found.get(name) != wanted.get(name):
            raise UserError(
                f"--video-vision {name_or_path}: its {name} is {found.get(name)}, that of --vision is "
                f"{wanted.get(name)}; both towers of a Video-LLaVA have one config and see pictures alike"
            )


def check_decoder(name_or_path: str) -> None:
    """Raise UserError for what is no causal language model built like LLaMA: a decoder `model` under an `lm_head`."""
    config = read_config(name_or_path, "--text")
    if config.model_type not in DECODERS:
        raise UserError(
            f"--text {name_or_path}: is a {config.model_type!r} model; decoders can be {', '.join(DECODERS)}"
        )


def load_whole(
    model_class: type[AutoModel] | type[AutoModelForCausalLM],
    name_or_path: str,
    dtype: torch.dtype,
    option: str,
    **settings: Any,
) -> PreTrainedModel:
    """Load a model; missing weights that are used, of which transformers only warns, raise UserError."""
    try:
        # pyrefly: ignore[not-iterable]  with output_loading_info it returns a pair, which its stubs leave out
        model, loading = model_class.from_pretrained(
            name_or_path, dtype=dtype, output_loading_info=True, trust_remote_code=False, **settings
        )
    except Exception as problem:  # whatever a library makes of a stranger's file
        raise UserError(f"{option} {name_or_path}: cannot load it: {first_line(problem)}") from problem
    if missing := sorted(name for name in loading["missing_keys"] if not is_spare(name, model.config)):
        raise UserError(f"{option} {name_or_path}: lacks {len(missing)} weights, the first {missing[0]}")
    return model


def is_spare(parameter: str, config: PreTrainedConfig) -> bool:
    """Return whether a weight of a tower lies behind its layers, such as the pooler that many ViTs come without."""
    if config.model_type not in NUM_CLASS_TOKENS:
        return False
    return not is_used(f"{TOWERS[0]}.{parameter}", VideoLlavaConfig(vision_config=config, vision_feature_layer=-1))


def pixel_settings(name_or_path: str, option: str) -> dict[str, Any]:
    """Return how a vision checkpoint's own image processor sizes and normalises pictures."""
    try:
        own = AutoImageProcessor.from_pretrained(name_or_path, trust_remote_code=False)
        assert own is not None
        settings = own.to_dict()
    except Exception as problem:  # whatever a library makes of a stranger's file
        raise UserError(
            f"{option} {name_or_path}: cannot load its image processor, which says how pictures are sized and "
            f"normalised: {first_line(problem)}"
        ) from problem
    pixels = {name: settings.get(name) for name in PIXEL_SETTINGS}
    pixels["do_center_crop"] = bool(pixels["do_center_crop"])  # SigLIP and ViT do not know the word
    for name in ("size", "crop_size"):
        pixels[name] = {side: length for side, length in dict(pixels[name] or {}).items() if length is not None}
    pixels["crop_size"] = pixels["crop_size"] or pixels["size"]
    return pixels


def check_pixels(name_or_path: str, processor: VideoLlavaProcessor) -> None:
    """Raise UserError where Video-LLaVA's processor makes other pixels of a picture than the tower's own."""
    row, column, colour = np.ogrid[:90, :120, :3]
    picture = ((row * 2 + column + colour * 80) % 256).astype(np.uint8)
    own = AutoImageProcessor.from_pretrained(name_or_path, trust_remote_code=False)
    assert own is not None
    wanted = own(Image.fromarray(picture), return_tensors="pt")["pixel_values"]
    (found,) = pixel_inputs(processor, [fit(processor, "image", picture)], []).values()
    if found.shape != wanted.shape or (found - wanted).abs().mean() > PIXEL_TOLERANCE:
        raise UserError(
            f"--vision {name_or_path}: its {type(own).__name__} does more to pictures than to size, crop and "
            "normalise them, which is all that Video-LLaVA's processor can do"
        )


def load_tokenizer(name_or_path: str) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
    except Exception as problem:  # whatever a library makes of a stranger's file
        reason = first_line(problem)
        raise UserError(f"--text {name_or_path}: cannot load its tokenizer: {reason}") from problem
    assert tokenizer is not None
    return tokenizer


def read_config(name_or_path: str, option: str) -> PreTrainedConfig:
    """Read a part's config. UserError where it names code, is damaged, or has weights that are quantised."""
    try:
        check_files(name_or_path, None, (*MODEL_FILES, *PROCESSOR_FILES))
        config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
    except UserError as problem:
        raise UserError(f"{option} {problem}") from problem
    except Exception as problem:  # whatever a library makes of a stranger's file
        raise UserError(f"{option} {name_or_path}: cannot load it: {first_line(problem)}") from problem
    if getattr(config, "quantization_config", None):
        raise UserError(
            f"{option} {name_or_path}: its weights are quantised; take the checkpoint that they were made of"
        )
    return config


def add_tokens(name_or_path: str, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Give the tokenizer <image>, <video>, where it has none a padding token, and a chat template."""
    tokenizer.add_tokens(list(PLACEHOLDERS.values()), special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    try:
        return choose_template(tokenizer)
    except UserError as problem:
        raise UserError(f"--text {name_or_path}: {problem}") from problem


def fit_embeddings(decoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give every token of the tokenizer an embedding; some checkpoints have some to spare, for padding."""
    needed, size = max(tokenizer.get_vocab().values()) + 1, decoder.config.vocab_size
    if needed > size:  # the new ones are drawn around the others' mean
        multiple = None if size % VOCAB_MULTIPLE else VOCAB_MULTIPLE
        decoder.resize_token_embeddings(needed, pad_to_multiple_of=multiple)
