"""A Video-LLaVA checkpoint's processor: loaded, made to agree with its model, measured and checked."""

from typing import Any

import numpy as np
from PIL import Image
from transformers import AutoConfig, PreTrainedConfig, PreTrainedTokenizerBase, VideoLlavaProcessor

from data.checkpoint_files import check_model_files, check_processor_files
from data.errors import SettingError, UserError, first_line
from data.untrusted import refusal_of_template
from data.video_llava import (
    CHAT_TEMPLATE,
    DECODERS,
    INTERPOLATING,
    NUM_CLASS_TOKENS,
    SERVED_AS_TRAINED,
    VisualTokens,
    fit,
    num_extra_tokens,
)

HUB_DEFAULT = "main"  # the hub's own name for a repository's newest revision
PROBE_SIZES = ((48, 64), (64, 48))  # a wide and a tall picture, in pixels


def set_up_processor(
    name_or_path: str, revision: str | None = None, *, num_frames: int, config: PreTrainedConfig | None = None
) -> tuple[VideoLlavaProcessor, VisualTokens, list[str]]:
    """Load a checkpoint's processor, complete it, measure its visual tokens and check them against the model.

    `config` is the model's where it does not lie beside the processor, as with an adapter. Returns a line for the user
    on each change too. Raises UserError for what is no Video-LLaVA and for a processor that does not fit its model.
    """
    config = config or load_config(name_or_path, revision)
    processor, notices = load_processor(name_or_path, revision, config)
    visual_tokens = measure_visual_tokens(processor, num_frames)
    check_geometry(name_or_path, config, processor, visual_tokens)
    processor.video_processor.num_frames = num_frames  # for those who load what we save
    return processor, visual_tokens, notices


def load_config(name_or_path: str, revision: str | None = None) -> PreTrainedConfig:
    """Read the config of a Video-LLaVA; raises UserError where there is none, or another model's."""
    try:
        check_model_files(name_or_path, revision)
        config = AutoConfig.from_pretrained(name_or_path, revision=revision, trust_remote_code=False)
        int(config.vision_config.image_size // config.vision_config.patch_size)  # all that we read of it
    except UserError as problem:
        raise SettingError("name_or_path", str(problem)) from problem
    except Exception as problem:  # whatever a library makes of a stranger's file
        raise _cannot_load(name_or_path, problem) from problem
    if config.model_type != "video_llava":
        raise SettingError(
            "name_or_path",
            f"{name_or_path} is a {config.model_type!r} model; reeltune trains 'video_llava' checkpoints",
        )
    for part, taken in (("vision_config", tuple(NUM_CLASS_TOKENS)), ("text_config", DECODERS)):
        if (found := getattr(config, part).model_type) not in taken:
            raise SettingError(
                "name_or_path", f"{name_or_path}: its {part} is a {found!r} model; taken are {', '.join(taken)}"
            )
    return config


def max_positions(name_or_path: str, revision: str | None = None) -> int | None:
    """Return how many tokens a model's decoder was made for; None where its config does not tell."""
    return getattr(load_config(name_or_path, revision).text_config, "max_position_embeddings", None)


def load_processor(
    name_or_path: str, revision: str | None, config: PreTrainedConfig
) -> tuple[VideoLlavaProcessor, list[str]]:
    """Load a processor and make it agree with its model's config; returns a line for the user on each change."""
    try:
        check_processor_files(name_or_path, revision)
        processor = VideoLlavaProcessor.from_pretrained(
            name_or_path, revision=revision or HUB_DEFAULT, trust_remote_code=False
        )
        notices = complete_processor(processor, config)
    except UserError as problem:
        raise SettingError("name_or_path", str(problem)) from problem
    except Exception as problem:  # whatever a library makes of a stranger's file
        raise _cannot_load(name_or_path, problem) from problem
    return processor, notices


def _cannot_load(name_or_path: str, problem: Exception) -> SettingError:
    return SettingError("name_or_path", f"cannot load {name_or_path}: {first_line(problem)}")


def complete_processor(processor: VideoLlavaProcessor, config: PreTrainedConfig) -> list[str]:
    """Make a processor agree with its model's config, in place; returns a line for the user on each change.

    Checkpoints from before transformers 4.46 have none of these settings in their processor, and
    the class's defaults are right for one geometry only. The model's config decides how many features come out.
    """
    wanted = {
        "patch_size": config.vision_config.patch_size,
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
        "num_additional_image_tokens": num_extra_tokens(config.vision_config),
    }
    notices = []
    processor.video_processor.do_sample_frames = False  # clips that we hand it are frames already
    for name, value in wanted.items():
        if (old := getattr(processor, name, None)) != value:
            notices.append(f"processor: {name} {old} -> {value} (from the model's config)")
            setattr(processor, name, value)
    template = processor.chat_template or processor.tokenizer.chat_template
    if isinstance(template, dict):  # several by name
        template = template.get("default")
    if template is not None:
        template = str(template).removeprefix(SERVED_AS_TRAINED)
    if template is not None and template != CHAT_TEMPLATE:
        tokens = {name: str(token) for name, token in processor.tokenizer.special_tokens_map.items()}
        if (reason := refusal_of_template(template, tokens)) is not None:
            raise UserError(f"its chat template cannot be used: {reason}")
    if template is None:
        processor.chat_template = CHAT_TEMPLATE
    elif not _ends_turns_with_eos(processor.tokenizer, template):
        notices.append("processor: its chat template ends no answer with EOS; using Video-LLaVA's documented prompt")
        processor.chat_template = CHAT_TEMPLATE
    else:
        processor.chat_template = template
    processor.tokenizer.chat_template = processor.chat_template
    if processor.tokenizer.pad_token_id is None:
        notices.append("processor: the tokenizer has no padding token; using EOS (padding is masked)")
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return notices


def _ends_turns_with_eos(tokenizer: PreTrainedTokenizerBase, template: str) -> bool:
    turns: list[Any] = [
        {"role": role, "content": [{"type": "text", "text": "x"}]} for role in ("user", "assistant") * 2
    ]
    texts = [tokenizer.apply_chat_template(turns[:n], tokenize=False, chat_template=template) for n in (2, 4)]
    return all(str(text).rstrip().endswith(str(tokenizer.eos_token)) for text in texts)


def measure_visual_tokens(processor: VideoLlavaProcessor, num_frames: int) -> VisualTokens:
    """Ask the processor itself how many ids a picture and a clip become: nothing here is assumed.

    Raises UserError when the count depends on the picture's shape, which a fixed-size tower cannot take.
    """
    counts = []
    for height, width in PROBE_SIZES:
        frame = np.zeros((height, width, 3), dtype=np.uint8)
        inputs = processor(
            text="<image><video>", images=[Image.fromarray(frame)], videos=[np.stack([frame] * num_frames)]
        )
        ids = list(np.asarray(inputs["input_ids"]).reshape(-1))
        counts.append((ids.count(processor.image_token_id), ids.count(processor.video_token_id)))
    if counts[0] != counts[1]:
        raise UserError(
            f"processor: tall and wide pictures give {counts} (picture, clip) tokens; "
            "set do_center_crop and crop_size so that all have one size"
        )
    return VisualTokens(image=counts[0][0], video=counts[0][1], num_frames=num_frames)


def check_geometry(
    name_or_path: str, config: PreTrainedConfig, processor: VideoLlavaProcessor, visual_tokens: VisualTokens
) -> None:
    """Raise UserError where the processor's pictures are not of the size that the model's towers take."""
    vision, probe = config.vision_config, np.zeros((*PROBE_SIZES[0], 3), dtype=np.uint8)
    picture, (frame,) = fit(processor, "image", probe), fit(processor, "video", probe[None])
    sizes = {tuple(pixels.shape[-2:]) for pixels in (picture, frame)}
    height, width = sizes.pop() if vision.model_type in INTERPOLATING else (vision.image_size, vision.image_size)
    patches = (height // vision.patch_size) * (width // vision.patch_size)
    extra = num_extra_tokens(vision)
    image = patches + extra - (config.vision_feature_select_strategy == "default")
    is_right = (visual_tokens.image, visual_tokens.video) == (image, (patches + extra) * visual_tokens.num_frames)
    if not is_right or sizes - {(height, width)}:
        wanted = "be one size" if vision.model_type in INTERPOLATING else f"be the model's {vision.image_size} pixels"
        raise UserError(
            f"{name_or_path}: its processor makes {visual_tokens.image} tokens a picture, but the model's towers give "
            f"{image}; its crop_size must {wanted}, for pictures and for frames"
        )
