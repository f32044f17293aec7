"""A talker from the name of a model or adapter, and the chat with it."""

from collections.abc import Sequence
from typing import Any

from data.media.reference import Kind, media_at
from data.media.storage import check_media
from train.model.load import quiet_libraries
from train.results.artifact import open_artifact
from train.results.asking import Asking, ways_of_asking
from train.results.loading import load
from train.talking.chat import chat
from train.talking.dialogue import Dialogue
from train.talking.sampling import Sampling
from train.talking.talker import Talker


def open_talker(
    name_or_path: str,
    *,
    base: str | None,
    dtype: str,
    any_base: bool,
    quantization: str | None,
    num_frames: int | None,
    system_prompt: str | None,
    **settings: Any,
) -> tuple[Talker, Asking]:
    """Load a model, and see how it is asked; `settings` go to `Talker`."""
    quiet_libraries()
    artifact = open_artifact(name_or_path, base)
    asking = ways_of_asking(artifact, num_frames=num_frames, system_prompt=system_prompt)
    model, processor = load(artifact, dtype=dtype, quantization=quantization, any_base=any_base)
    talker = Talker(model, processor, num_frames=asking.num_frames, frame_sampling=asking.sampling, **settings)
    return talker, asking


def chat_with(name_or_path: str, files: Sequence[tuple[Kind, str]], sampling: Sampling, **settings: Any) -> None:
    """Chat about files, (kind, path) in order, and what is given later; `settings` go to `open_talker`."""
    media = [media_at(kind, path) for kind, path in files]
    for item in media:
        check_media(item)
    talker, asking = open_talker(name_or_path, **settings)
    chat(talker, Dialogue(asking.system_prompt, pending=media), sampling)
