"""Everything tests need is made here, offline: a tiny Video-LLaVA, its processor, clips, pictures, questions."""

import gc
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from weakref import WeakKeyDictionary

import jinja2
import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image
from tqdm import tqdm

from data.isolation import child_process
from data.processor import measure_visual_tokens
from data.progress.bars import SCREEN
from data.progress.log import start_logging
from tests.tiny_data import WORDS, mixed_records, write_clip
from tests.warm import Warm
from train.model.build import build_config, build_model, build_processor, train_tokenizer

WITH_WARM = SimpleNamespace(**{**vars(subprocess), "Popen": Warm})

# The lock of progress bars is shared with forks, and stays locked when one is killed that holds it; so would the thread
# that watches bars.
tqdm.set_lock(threading.RLock())
tqdm.monitor_interval = 0

# DeepSpeed has torch ask NVML whether there is a GPU, which torch does for every operation on shapes alone.
if not torch.cuda.is_available():
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"

# The same examples in every CI run, so that a failure there is the change's; at home hypothesis looks further.
# No deadline: how long an example takes says how busy the machine is.
settings.register_profile("home", deadline=None)
settings.register_profile("ci", derandomize=True, deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "home")


@pytest.fixture(autouse=True, scope="session")
def warm_decoders():
    """Every run has a process that decodes; what it is made of has been imported here."""
    child_process.subprocess = WITH_WARM


@pytest.fixture(autouse=True, scope="session")
def neither_pictures_nor_reports():
    """Runs in this process leave no loss.png and no report.html, each of which takes longer than a step of theirs;
    those of the command do."""
    if "train.sft" in sys.modules:
        sys.modules["train.sft"].draw_losses = sys.modules["train.sft"].write_report = lambda output_dir: None


@pytest.fixture(autouse=True, scope="session")
def templates_once():
    """PEFT has the template of its model card compiled for every adapter that is saved."""
    compiled: WeakKeyDictionary[jinja2.Environment, dict] = WeakKeyDictionary()
    compiling = jinja2.Environment.compile

    def compile_once(environment, *source, **options):
        known = compiled.setdefault(environment, {})
        key = (source, *options.items())
        if key not in known:
            known[key] = compiling(environment, *source, **options)
        return known[key]

    jinja2.Environment.compile = compile_once


@pytest.fixture
def cold_decoders(monkeypatch):
    """Processes that decode begin as they do for users: with a memory of their own, and beside any threads."""
    monkeypatch.setattr(child_process, "subprocess", subprocess)


@pytest.fixture(autouse=True)
def lines():
    """Show what the packages log, as every command does; none of an earlier test's bars."""
    start_logging()
    yield
    SCREEN.clear()
    SCREEN.bars.clear()


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):  # `keywords` holds the names of folders, too
                item.add_marker(pytest.mark.skip(reason="torch.cuda.is_available() is False"))


def pytest_collection_finish():
    """Spare every later collection of garbage, of which a run's end makes one, all that is here to stay."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def processor():
    return build_processor(train_tokenizer([WORDS] * 3), image_size=56)


@pytest.fixture(scope="session")
def visual_tokens(processor):
    return measure_visual_tokens(processor, num_frames=8)


@pytest.fixture
def model(processor):
    """Float32, random, about 1.25 M parameters; a new one for every test."""
    return build_model(build_config("tiny", processor.tokenizer)).eval()


@pytest.fixture(scope="session")
def model_folder(processor, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    build_model(build_config("tiny", processor.tokenizer)).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def shallow_folder(processor, tmp_path_factory) -> Path:
    """The model with two of its decoder's layers, an ordinary one and the last: for runs, of which there are many."""
    folder = tmp_path_factory.mktemp("shallow")
    config = build_config("tiny", processor.tokenizer)
    config.text_config.num_hidden_layers = 2
    build_model(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def media_folder(tmp_path_factory) -> Path:
    """clip0.mp4 to clip3.mp4 and picture0.png to picture2.png, of odd sizes."""
    folder = tmp_path_factory.mktemp("media")
    for number in range(4):
        write_clip(folder / f"clip{number}.mp4", number, size=(64, 48) if number % 2 else (48, 80))
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (50 + 9 * number, 71, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"picture{number}.png")
    return folder


@pytest.fixture
def hangup():
    """Let this process get SIGHUP, whoever started it, and take it back."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def no_pauses(monkeypatch):
    """Between the tries of a download, and of what may pass."""
    monkeypatch.setattr("data.patience.PAUSES", (0, 0))
    monkeypatch.setattr("data.media.download.PAUSES", (0, 0))
    monkeypatch.setattr("data.media.http_file.PAUSES", (0, 0))


@pytest.fixture
def mixed_file(media_folder, tmp_path) -> Path:
    """A LLaVA file with clips (three questions each), pictures, both in one sample, and text alone."""
    path = tmp_path / "mixed.json"
    path.write_text(json.dumps(mixed_records(media_folder)))
    return path
