"""Everything that is particular to Video-LLaVA: prompt, placeholders, tokens per picture and clip, module names.

A second model family is one more module with the same names. Importing it must not take seconds, as torch and
transformers do: recipes and data files are read, and refused, without them.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, VideoLlavaProcessor

DECODER = "language_model"
PROJECTOR = "multi_modal_projector"
TOWERS = ("image_tower", "video_tower")
NUM_FRAMES = 8  # of a clip, as Video-LLaVA was trained
PLACEHOLDERS = {"image": "<image>", "video": "<video>"}
LAYOUT = "channels_last"  # said, because a picture of one or three rows may as well have them first
# The towers and decoders that transformers' class may hold and that are tested here, as `model_type` in config.json
# names them: each tower with the number of tokens that it puts in front of a picture's patches, registers aside.
NUM_CLASS_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0, "dinov2": 1, "dinov2_with_registers": 1, "vit": 1}
DECODERS = ("llama", "mistral", "qwen2", "qwen3")
INTERPOLATING = ("dinov2", "dinov2_with_registers")  # towers that fit their positions to pictures of any size
# Parts of a tower that lie behind its layers, or that only its own training with masked patches needs.
BEHIND_LAYERS = re.compile(r"_tower\.(?:vision_model\.)?(?:post_layernorm|layernorm|head|pooler)\b|\bmask_token$")

# Media that open a message stand on lines of their own; media inside a text stay where the text has them.
_TEXT_OF_MESSAGE = (
    "{%- set seen = namespace(text='', words=false) -%}"
    "{%- if message['content'] is string -%}{%- set seen.text = message['content'] -%}"
    "{%- else -%}{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'text' -%}{%- set seen.words = true -%}{%- set seen.text = seen.text + part['text'] -%}"
    "{%- else -%}"
    "{%- set seen.text = seen.text + '<' + part['type'] + '>' + ('' if seen.words else '\\n') -%}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
)
# The prompt of Video-LLaVA's documentation, `USER: <video>\nQ ASSISTANT: A</s> USER: ...`.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if not loop.first -%}{{ ' ' }}{%- endif -%}"
    "{%- if message['role'] == 'user' -%}{{ 'USER: ' }}"
    "{%- elif message['role'] == 'assistant' -%}{{ 'ASSISTANT:' }}{%- endif -%}" + _TEXT_OF_MESSAGE + ""
    "{%- if message['role'] == 'assistant' -%}"
    "{{ (' ' if seen.text else '') + seen.text + eos_token }}"
    "{%- else -%}{{ seen.text }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ ' ASSISTANT:' if messages else 'ASSISTANT:' }}{%- endif -%}"
)
_OPENINGS = {"user": "USER: ", "assistant": "ASSISTANT:"}
# Put in front of the chat template in files that we write. transformers hands a template the arguments that it names,
# and the processor the others. `transformers serve` asks for 32 frames of every clip: so the processor takes its own.
# It also puts the sound of a clip beside it, which a Video-LLaVA has no words for.
SERVED_AS_TRAINED = (
    "{%- if num_frames is defined -%}"
    "{%- set seen = namespace(messages=[]) -%}"
    "{%- for message in messages -%}"
    "{%- if message['content'] is string or not message['content'] -%}"
    "{%- set seen.messages = seen.messages + [message] -%}"
    "{%- else -%}"
    "{%- set parts = message['content'] | rejectattr('type', 'equalto', 'audio') | list -%}"
    "{%- set seen.messages = seen.messages + [dict(message, content=parts)] -%}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- set messages = seen.messages -%}"
    "{%- endif %}\n"
)
# Put in front of a decoder's own chat template, which knows texts alone: media become placeholders in the text. What
# stands behind the line break begins a line, as it did before: jinja strips blanks there.
MEDIA_AS_TEXT = (
    "{%- set flat = namespace(messages=[]) -%}"
    "{%- for message in messages -%}" + _TEXT_OF_MESSAGE + ""
    "{%- set flat.messages = flat.messages + [dict(message, content=seen.text)] -%}"
    "{%- endfor -%}"
    "{%- set messages = flat.messages %}\n"
)


@dataclass(frozen=True)
class VisualTokens:
    """The numbers of ids that a placeholder stands for in the decoder's input.

    `image`: tokens of one picture; `video`: tokens of one clip of `num_frames` frames.
    """

    image: int
    video: int
    num_frames: int

    def of(self, kind: str) -> int:
        return self.image if kind == "image" else self.video

    def __str__(self) -> str:
        return f"{self.image} tokens a picture, {self.video} a clip"


def documented_prompt(messages: Sequence[Mapping], eos_token: str) -> tuple[str, list[tuple[int, int]]]:
    """Return what CHAT_TEMPLATE makes of a dialogue, and where its answers stand in that: half-open ranges of letters,
    each from the end of a generation prompt to the end of the EOS behind the answer.

    It is the same text, a hundred times as fast as jinja: a test compares them.
    """
    pieces, length, answers = [], 0, []
    for number, message in enumerate(messages):
        said, has_words = "", False
        for part in message["content"]:
            if part["type"] == "text":
                said, has_words = said + part["text"], True
            else:
                said += f"<{part['type']}>" + ("" if has_words else "\n")
        opening = (" " if number else "") + _OPENINGS.get(message["role"], "")
        if message["role"] == "assistant":
            said = (" " if said else "") + said + eos_token
            answers.append((length + len(opening), length + len(opening) + len(said)))
        pieces += [opening, said]
        length += len(opening) + len(said)
    return "".join(pieces), answers


@cache
def image_key() -> str:
    """Return the name of the pictures' pixels in the model's `forward`: transformers 5.23 renamed it."""
    from transformers import VideoLlavaForConditionalGeneration

    names = inspect.signature(VideoLlavaForConditionalGeneration.forward).parameters
    return next(name for name in names if "pixel_values" in name)


def fit(processor: VideoLlavaProcessor, kind: str, pixels: np.ndarray) -> torch.Tensor:
    """Resized and cropped by the checkpoint's own processor, uint8: a picture (h, w, 3) -> (3, H, W), a clip
    (F, h, w, 3) -> (F, 3, H, W)."""
    half_way = {"return_tensors": "pt", "do_rescale": False, "do_normalize": False, "input_data_format": LAYOUT}
    if kind == "image":  # as an array: transformers 5.17 has a picture's channels first, whatever it is told
        (values,) = processor.image_processor([pixels], **half_way).values()
    else:
        values = processor.video_processor([pixels], **half_way)["pixel_values_videos"]
    return values[0]


def pixel_inputs(
    processor: VideoLlavaProcessor, pictures: Sequence[torch.Tensor], clips: Sequence[torch.Tensor]
) -> dict:
    """Return the towers' inputs from what `fit` returns, normalised, as the model's `forward` names them.

    pictures -> (N, 3, H, W) float32; clips -> pixel_values_videos (M, F, 3, H, W) float32. A kind that is absent has
    no key. To the bit what the processor makes of them in one go.
    """
    inputs, fitted = {}, {"return_tensors": "pt", "do_resize": False, "do_center_crop": False}
    if pictures:
        (values,) = processor.image_processor(list(pictures), **fitted).values()
        inputs[image_key()] = values
    if clips:
        inputs["pixel_values_videos"] = processor.video_processor(list(clips), **fitted)["pixel_values_videos"]
    return inputs


def empty_pixels(processor: VideoLlavaProcessor, kinds: Collection[str], num_frames: int) -> dict:
    """Return the `pixel_inputs` of no picture (0, 3, H, W) and no clip (0, F, 3, H, W), for the kinds that are named.

    With them a forward pass runs the kind's tower and the projector on nothing: they add nothing to the loss, give the
    projector zero gradients, and take part in what all ranks must do together (gathering weights, reducing gradients).
    """
    frame = np.zeros((32, 32, 3), dtype=np.uint8)
    pictures = [fit(processor, "image", frame)] if "image" in kinds else []
    clips = [fit(processor, "video", np.stack([frame] * num_frames))] if "video" in kinds else []
    return {name: values[:0].clone() for name, values in pixel_inputs(processor, pictures, clips).items()}


def num_extra_tokens(vision: PreTrainedConfig) -> int:
    """Return how many tokens a tower puts in front of a picture's patches: class token and registers."""
    return NUM_CLASS_TOKENS[vision.model_type] + getattr(vision, "num_register_tokens", 0)


def select_strategy(vision: PreTrainedConfig) -> Literal["default", "full"]:
    """Return transformers' word for what becomes of a picture's first token: it is dropped where it is a class token.
    Frames of a clip keep theirs."""
    return "default" if NUM_CLASS_TOKENS[vision.model_type] else "full"


def is_used(parameter: str, config: PreTrainedConfig) -> bool:
    """Return whether the loss depends on a parameter, given its full name: features are from a layer inside the towers
    (-2: the last but one), what lies behind it is computed for nobody."""
    if not any(tower in parameter.split(".") for tower in TOWERS):
        return True
    selected = config.vision_feature_layer
    num_states = config.vision_config.num_hidden_layers + 1  # the embeddings are the first
    last = max(layer % num_states for layer in ([selected] if isinstance(selected, int) else selected))
    layer = re.search(r"\.layers?\.(\d+)\.", parameter)
    return BEHIND_LAYERS.search(parameter) is None and (layer is None or int(layer[1]) < last)
