"""Rows and media in other places than plain files, and the same conversations and pixels out of them."""

import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from data.decoding.decode import decode
from data.errors import UserError
from data.sources.conversation import read_conversations
from data.sources.source import Source
from tests.tiny_data import turns

CLIP = {"video": "clip0.mp4", "conversations": turns("<video>\nWhat colour?", "red")}


def write_tar(path: Path, members: dict[str, bytes | dict | list]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path


def check_same(found, expected) -> None:
    conversations = list(found)
    assert [each.messages for each in conversations] == [messages for messages, _ in expected]
    for conversation, (_, pixels) in zip(conversations, expected, strict=True):
        for item, frames in zip(pickle.loads(pickle.dumps(conversation.media)), pixels, strict=True):
            assert np.array_equal(decode(item, 8), frames)


def failure(path: Source | str | Path, media_root: Path | None = None) -> str:
    source = path if isinstance(path, Source) else Source(path, media_root=media_root)
    with pytest.raises(UserError) as error:
        list(read_conversations(source))
    assert "\n" not in str(error.value)
    return str(error.value)


def said(conversation) -> list[tuple[str, str]]:
    """Return (role, text with its marks) of each message."""
    return [
        (message["role"], "".join(part.get("text", f"<{part['type']}>") for part in message["content"]))
        for message in conversation.messages
    ]
