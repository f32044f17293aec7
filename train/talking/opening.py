"""A talker from the name of a model or adapter, and the chat with it."""

from collections.abc import Sequence
from typing import Any

from data.media.reference import Kind, media_at
from data.media.storage import check_media
from train.model.load import quiet_libraries
from train.results.asking import Asking
from train.results.loading import Loading, load_to_ask
from train.talking.chat import chat
from train.talking.dialogue import Dialogue
from train.talking.sampling import Sampling
from train.talking.talker import Talker


def open_talker(
    name_or_path: str,
    *,
    how: Loading,
    num_frames: int | None,
    system_prompt: str | None,
    **settings: Any,
) -> tuple[Talker, Asking]:
    """Load a model, and see how it is asked; `settings` go to `Talker`."""
    quiet_libraries()
    model, processor, asking = load_to_ask(name_or_path, how, num_frames, system_prompt)
    talker = Talker(model, processor, num_frames=asking.num_frames, frame_sampling=asking.sampling, **settings)
    return talker, asking


def chat_with(name_or_path: str, files: Sequence[tuple[Kind, str]], sampling: Sampling, **settings: Any) -> None:
    """Chat about files, (kind, path) in order, and what is given later; `settings` go to `open_talker`."""
    media = [media_at(kind, path) for kind, path in files]
    for item in media:
        check_media(item)
    talker, asking = open_talker(name_or_path, **settings)
    chat(talker, Dialogue(asking.system_prompt, pending=media), sampling)
