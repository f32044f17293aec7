"""Everything that is particular to Video-LLaVA: prompt, placeholders, tokens per picture and clip, module names.

A second model family is one more module with the same names.
"""

import inspect
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, PreTrainedConfig, VideoLlavaForConditionalGeneration, VideoLlavaProcessor

from data.errors import UserError

DECODER = "language_model"
PROJECTOR = "multi_modal_projector"
TOWERS = ("image_tower", "video_tower")
PLACEHOLDERS = {"image": "<image>", "video": "<video>"}
# transformers 5.23 renamed `pixel_values_images`.
IMAGE_KEY = next(
    key for key in inspect.signature(VideoLlavaForConditionalGeneration.forward).parameters if "pixel_values" in key
)

# The prompt of Video-LLaVA's documentation, `USER: <video>\nQ ASSISTANT: A</s> USER: ...`. Media that open a
# message stand on lines of their own; media inside a text stay where the text has them.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if not loop.first -%}{{ ' ' }}{%- endif -%}"
    "{%- if message['role'] == 'user' -%}{{ 'USER: ' }}"
    "{%- elif message['role'] == 'assistant' -%}{{ 'ASSISTANT:' }}{%- endif -%}"
    "{%- set seen = namespace(text='', words=false) -%}"
    "{%- if message['content'] is string -%}{%- set seen.text = message['content'] -%}"
    "{%- else -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'text' -%}{%- set seen.words = true -%}{%- set seen.text = seen.text + part['text'] -%}"
    "{%- else -%}"
    "{%- set seen.text = seen.text + '<' + part['type'] + '>' + ('' if seen.words else '\\n') -%}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{{ (' ' if seen.text else '') + seen.text + eos_token }}"
    "{%- else -%}{{ seen.text }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ ' ASSISTANT:' }}{%- endif -%}"
)


@dataclass(frozen=True)
class VisualTokens:
    """How many ids one placeholder stands for in the decoder's input.

    `image`: tokens of one picture; `video`: tokens of one clip of `num_frames` frames.
    """

    image: int
    video: int
    num_frames: int

    def of(self, kind: str) -> int:
        return self.image if kind == "image" else self.video


def load_processor(name_or_path: str, revision: str | None = None) -> tuple[VideoLlavaProcessor, list[str]]:
    """The checkpoint's processor, made to agree with its model, and a line for the user on each change."""
    try:
        config = AutoConfig.from_pretrained(name_or_path, revision=revision)
        if config.model_type == "video_llava":
            processor = VideoLlavaProcessor.from_pretrained(name_or_path, revision=revision)
    except (OSError, KeyError, ValueError) as problem:  # ValueError: a config.json without a model_type
        reason = str(problem).strip().splitlines()[0]
        raise UserError(f"model.name_or_path: cannot load {name_or_path}: {reason}") from problem
    if config.model_type != "video_llava":
        raise UserError(
            f"model.name_or_path: {name_or_path} is a {config.model_type!r} model; "
            "reeltune trains 'video_llava' checkpoints"
        )
    return processor, complete_processor(processor, config)


def complete_processor(processor: VideoLlavaProcessor, config: PreTrainedConfig) -> list[str]:
    """Make a processor agree with its model's config, in place; returns a line for the user on each change.

    Checkpoints from before transformers 4.46 have none of these settings in their processor, and
    the class's defaults are right for one geometry only. The model's config decides how many features come out.
    """
    wanted = {
        "patch_size": config.vision_config.patch_size,
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
        "num_additional_image_tokens": 1,  # CLIP's class token
    }
    notices = []
    for name, value in wanted.items():
        if (old := getattr(processor, name, None)) != value:
            notices.append(f"processor: {name} {old} -> {value} (from the model's config)")
            setattr(processor, name, value)
    if (template := processor.chat_template or processor.tokenizer.chat_template) is None:
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


def _ends_turns_with_eos(tokenizer, template: str) -> bool:
    turns = [{"role": role, "content": [{"type": "text", "text": "x"}]} for role in ("user", "assistant") * 2]
    texts = [tokenizer.apply_chat_template(turns[:n], tokenize=False, chat_template=template) for n in (2, 4)]
    return all(text.rstrip().endswith(tokenizer.eos_token) for text in texts)


def measure_visual_tokens(processor: VideoLlavaProcessor, num_frames: int) -> VisualTokens:
    """Ask the processor itself how many ids a picture and a clip become: nothing here is assumed.

    Raises UserError when the count depends on the picture's shape, which a fixed-size tower cannot take.
    """
    counts = []
    for height, width in ((48, 64), (64, 48)):
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


def check_geometry(name_or_path: str, revision: str | None, visual_tokens: VisualTokens) -> None:
    """Raises UserError where the processor's pictures are not of the size that the model's towers take."""
    config = AutoConfig.from_pretrained(name_or_path, revision=revision)
    patches = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
    image = patches + (config.vision_feature_select_strategy != "default")
    if (visual_tokens.image, visual_tokens.video) != (image, (patches + 1) * visual_tokens.num_frames):
        raise UserError(
            f"processor of {name_or_path}: makes {visual_tokens.image} tokens a picture, but the model's towers give "
            f"{image}; its crop_size must be the model's {config.vision_config.image_size} pixels"
        )


def fit(processor: VideoLlavaProcessor, kind: str, pixels: np.ndarray) -> torch.Tensor:
    """Resized and cropped by the checkpoint's own processor, uint8: a picture (h, w, 3) -> (3, H, W), a clip
    (F, h, w, 3) -> (F, 3, H, W)."""
    half_way = {"return_tensors": "pt", "do_rescale": False, "do_normalize": False}
    if kind == "image":
        (values,) = processor.image_processor([Image.fromarray(pixels)], **half_way).values()
    else:
        values = processor.video_processor([pixels], **half_way)["pixel_values_videos"]
    return values[0]


def pixel_inputs(
    processor: VideoLlavaProcessor, pictures: Sequence[torch.Tensor], clips: Sequence[torch.Tensor]
) -> dict:
    """The towers' inputs from what `fit` returns, normalised, as the model's `forward` names them.

    pictures -> (N, 3, H, W) float32; clips -> pixel_values_videos (M, F, 3, H, W) float32. A kind that is absent has
    no key. To the bit what the processor makes of them in one go.
    """
    inputs, fitted = {}, {"return_tensors": "pt", "do_resize": False, "do_center_crop": False}
    if pictures:
        (values,) = processor.image_processor(list(pictures), **fitted).values()
        inputs[IMAGE_KEY] = values
    if clips:
        inputs["pixel_values_videos"] = processor.video_processor(list(clips), **fitted)["pixel_values_videos"]
    return inputs


def empty_pixels(processor: VideoLlavaProcessor, kinds: Collection[str], num_frames: int) -> dict:
    """`pixel_inputs` of no picture (0, 3, H, W) and no clip (0, F, 3, H, W), for the kinds that are named.

    With them a forward pass runs the kind's tower and the projector on nothing: they add nothing to the loss, give the
    projector zero gradients, and take part in what all ranks must do together (gathering weights, reducing gradients).
    """
    frame = np.zeros((32, 32, 3), dtype=np.uint8)
    pictures = [fit(processor, "image", frame)] if "image" in kinds else []
    clips = [fit(processor, "video", np.stack([frame] * num_frames))] if "video" in kinds else []
    return {name: values[:0].clone() for name, values in pixel_inputs(processor, pictures, clips).items()}


def is_used(parameter: str, config: PreTrainedConfig) -> bool:
    """Whether the loss depends on a parameter, given its full name: features are taken from a layer inside the towers
    (-2: the last but one), what lies behind it is computed for nobody."""
    if not any(tower in parameter.split(".") for tower in TOWERS):
        return True
    selected = config.vision_feature_layer
    num_states = config.vision_config.num_hidden_layers + 1  # the embeddings are the first
    last = max(layer % num_states for layer in ([selected] if isinstance(selected, int) else selected))
    layer = re.search(r"\.layers\.(\d+)\.", parameter)
    return "post_layernorm" not in parameter and (layer is None or int(layer[1]) < last)
