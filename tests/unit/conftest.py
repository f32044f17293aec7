"""The smallest recipe; the mixed records as they are in plain files, for those that find them elsewhere."""

import io
import json
from types import SimpleNamespace

import pytest

from data.decoding.decode import decode
from data.progress import bars
from data.sources.conversation import read_conversations
from data.sources.source import Source
from tests.tiny_data import MIXED_RECORDS

MINIMAL = """
model: {name_or_path: some/model}
data: {train: [{path: train.json}]}
training: {output_dir: outputs/run}
"""


@pytest.fixture
def minimal(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(MINIMAL)
    return path


@pytest.fixture
def terminal(monkeypatch):
    """Both streams are a terminal of 80 columns; returns what it is sent."""
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr(bars, "sys", SimpleNamespace(stdout=screen, stderr=screen))  # pytest sets its own each time
    for name, value in {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}.items():
        monkeypatch.setenv(name, value)
    yield screen
    bars.SCREEN.clear()  # while the streams are these


@pytest.fixture
def media(media_folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(media_folder.iterdir())}


@pytest.fixture(scope="session")
def expected(media_folder, tmp_path_factory):
    """The mixed records as plain files: messages and pixels."""
    path = tmp_path_factory.mktemp("plain") / "mixed.json"
    path.write_text(json.dumps(MIXED_RECORDS))
    return [
        (conversation.messages, [decode(item, 8) for item in conversation.media])
        for conversation in read_conversations(Source(path, media_root=media_folder))
    ]
