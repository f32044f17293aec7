"""preprocessing.json: how clips, pictures and words became a model's inputs in training.

Whoever asks the model later takes its frames, sizes and prompt from here, and compares the processor with it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from transformers import VideoLlavaProcessor

from data.checkpoint_files import read_json
from data.errors import UserError, one_line
from data.media.frame_sampling import RULES, FrameSampling, Way
from data.processor import PROBE_SIZES, measure_visual_tokens
from data.video_llava import fit
from train.recipe.recipe import MAX_FRAMES, Data
from train.run_folder.provenance import versions

PREPROCESSING = "preprocessing.json"
FORMAT = 1  # of the file; another one cannot be read as this one
# Libraries that turn files into a model's inputs; their versions are told, and not compared.
LIBRARIES = ("reeltune", "transformers", "tokenizers", "torch", "torchvision", "av", "pillow", "numpy")
# Settings of a picture's or clip's processor that decide its pixels.
PIXEL_SETTINGS = (
    *("do_convert_rgb", "do_resize", "size", "resample", "do_center_crop", "crop_size"),
    *("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std"),
)
SHOWN = 12  # characters of a digest
RESTORE = "restore the file, or remove it to have the model asked as its recipe says"


@dataclass(frozen=True)
class Preprocessing:
    """num_frames: of a clip. sampling: how they are chosen; jitter of training is uniform here, its segments' first
    frames. trained_with: the way of training. template: SHA-256 of the chat template. pictures, clips: sizes in pixels,
    tokens and settings of each. versions: of the libraries that it was made with."""

    num_frames: int
    sampling: FrameSampling
    trained_with: Way
    system_prompt: str | None
    template: str
    pictures: Mapping[str, Any]
    clips: Mapping[str, Any]
    versions: Mapping[str, str] = field(default_factory=dict)


def preprocessing_of(processor: VideoLlavaProcessor, data: Data) -> Preprocessing:
    """Return how a recipe's data become inputs, with the processor that `set_up_processor` made for it."""
    return preprocessing_with(processor, data.num_frames, sampling_of(data), data.frame_sampling, data.system_prompt)


def preprocessing_with(
    processor: VideoLlavaProcessor,
    num_frames: int,
    sampling: FrameSampling,
    trained_with: Way,
    system_prompt: str | None,
) -> Preprocessing:
    """Return how media and words become inputs, with a processor that is set up."""
    return Preprocessing(
        num_frames=num_frames,
        sampling=sampling,
        trained_with=trained_with,
        system_prompt=system_prompt,
        versions=versions(LIBRARIES),
        **_of_processor(processor, num_frames),
    )


def first_difference(one: Preprocessing, other: Preprocessing) -> tuple[str, Any, Any] | None:
    """Return the first key, as in the file, in which two ask a model in different ways, and both values; None where
    they ask alike. What only training did, and versions, do not count."""
    for key, then, now in (
        ("num_frames", one.num_frames, other.num_frames),
        ("frame_sampling", _told(one.sampling), _told(other.sampling)),
        ("system_prompt", one.system_prompt, other.system_prompt),
        ("prompt_template_sha256", one.template[:SHOWN], other.template[:SHOWN]),
        *((f"pictures.{key}", one.pictures.get(key), other.pictures.get(key)) for key in one.pictures),
        *((f"clips.{key}", one.clips.get(key), other.clips.get(key)) for key in one.clips),
    ):
        if then != now:
            return key, then, now
    return None


def _told(sampling: FrameSampling) -> str:
    rate = sampling.frames_per_second
    return sampling.way if rate is None else f"{sampling.way} {rate:g}"


def sampling_of(data: Data) -> FrameSampling:
    """Return how the frames of clips are chosen for answers, in training and afterwards."""
    way: Way = "fps" if data.frame_sampling == "fps" else "uniform"
    return FrameSampling(way, data.frames_per_second)


def write_preprocessing(folder: Path, kept: Preprocessing) -> None:
    """Write the file."""
    way = kept.sampling.way
    sampling: dict[str, Any] = {"rule": way, "version": RULES[way], "trained_with": kept.trained_with}
    if kept.sampling.frames_per_second is not None:
        sampling["frames_per_second"] = kept.sampling.frames_per_second
    content = {
        "format": FORMAT,
        "num_frames": kept.num_frames,
        "frame_sampling": sampling,
        "system_prompt": kept.system_prompt,
        "prompt_template_sha256": kept.template,
        "pictures": kept.pictures,
        "clips": kept.clips,
        "versions": kept.versions,
    }
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    (folder / PREPROCESSING).write_text(text, encoding="utf-8")


class _Part(BaseModel):
    model_config = ConfigDict(strict=True)


class _Sampling(_Part):
    rule: str
    version: int
    trained_with: Way
    frames_per_second: float | None = Field(default=None, gt=0, allow_inf_nan=False)


class _File(_Part):
    num_frames: int = Field(ge=1, le=MAX_FRAMES)
    frame_sampling: _Sampling
    system_prompt: str | None
    prompt_template_sha256: str
    pictures: dict[str, Any]
    clips: dict[str, Any]
    versions: dict[str, str] = {}


def read_preprocessing(file: Path) -> Preprocessing:
    """Read the file. UserError where it is damaged, or says what this version does not know."""
    content = read_json(file)
    if content.get("format") != FORMAT:
        raise UserError(
            f"{file}: format {_shown(content.get('format'))} is not known here (known: {FORMAT}); a later reeltune "
            "wrote it: install that one"
        )
    try:
        said = _File.model_validate(content)
    except ValidationError as problem:
        wrong = problem.errors(include_url=False)[0]
        where = ".".join(map(str, wrong["loc"]))
        raise UserError(f"{file} is damaged: {where}: {one_line(ValueError(wrong['msg']))}; {RESTORE}") from problem
    rule = said.frame_sampling
    if rule.rule not in ("uniform", "fps") or RULES[rule.rule] != rule.version:
        known = ", ".join(f"{name} {RULES[name]}" for name in ("uniform", "fps"))
        raise UserError(
            f"{file}: frame_sampling {_shown(rule.rule)}, version {rule.version}, is not known here (known: {known}); "
            "a later reeltune chose its frames: install that one"
        )
    if (rule.rule == "fps") != (rule.frames_per_second is not None):
        raise UserError(f"{file} is damaged: frame_sampling: frames_per_second is for the rule fps; {RESTORE}")
    return Preprocessing(
        num_frames=said.num_frames,
        sampling=FrameSampling(rule.rule, rule.frames_per_second),
        trained_with=rule.trained_with,
        system_prompt=said.system_prompt,
        template=said.prompt_template_sha256,
        pictures=said.pictures,
        clips=said.clips,
        versions=said.versions,
    )


def check_processor(kept: Preprocessing, processor: VideoLlavaProcessor, name: str) -> None:
    """Raise UserError where a processor, set up, is not the one that the model called `name` was trained with."""
    now = _of_processor(processor, kept.num_frames)
    if now["template"] != kept.template:
        raise UserError(
            f"{name}: the chat template of its processor is another one than that of training (SHA-256 "
            f"{now['template'][:SHOWN]} instead of {kept.template[:SHOWN]} in {PREPROCESSING}); restore "
            f"chat_template.jinja, or, to ask with the new prompt, remove {PREPROCESSING}"
        )
    for part in ("pictures", "clips"):
        then = getattr(kept, part)
        for key, found in now[part].items():
            if key in then and found != then[key]:
                raise UserError(
                    f"{name}: its processor has {key} {_shown(found)} for {part} instead of {_shown(then[key])}, that "
                    f"of training in {PREPROCESSING}; restore processor_config.json, or remove {PREPROCESSING} to do "
                    "without"
                )


def _of_processor(processor: VideoLlavaProcessor, num_frames: int) -> dict[str, Any]:
    """Return what a processor decides, by the names of `Preprocessing`."""
    tokens, probe = measure_visual_tokens(processor, num_frames), np.zeros((*PROBE_SIZES[0], 3), dtype=np.uint8)
    return {
        "template": hashlib.sha256(str(processor.chat_template).encode("utf-8", "surrogatepass")).hexdigest(),
        "pictures": _side(processor.image_processor, fit(processor, "image", probe), tokens.image),
        "clips": _side(processor.video_processor, fit(processor, "video", probe[None]), tokens.video),
    }


def _side(settings: Any, pixels: Any, tokens: int) -> dict[str, Any]:
    height, width = pixels.shape[-2:]
    said = json.loads(settings.to_json_string())
    told = {key: said.get(key) for key in PIXEL_SETTINGS}
    return {"height": height, "width": width, "tokens": tokens, **told}


def _shown(value: Any) -> str:
    return repr(value)[:80]
