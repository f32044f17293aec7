"""Decoding in another process gives what decoding here gives, and that process may come to any end."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from data.decoding.decode import decode
from data.decoding.isolated_decoder import IsolatedDecoder
from data.errors import MediaError
from data.media.reference import Media
from tests.media_samples import cut, draw_frames, write_clip, write_endless

pytestmark = pytest.mark.usefixtures("cold_decoders")


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> list[Media]:
    """A clip, a part of it, and a picture."""
    folder = tmp_path_factory.mktemp("media")
    clip = write_clip(folder / "clip.mp4", draw_frames(24))
    Image.fromarray(draw_frames(1)[0]).save(folder / "picture.png")
    return [
        Media("video", str(clip)),
        Media("video", str(clip), start=0.5, end=1.0),
        Media("image", str(folder / "picture.png")),
    ]


@pytest.fixture(scope="module")
def endless(tmp_path_factory) -> Media:
    return Media("video", str(write_endless(tmp_path_factory.mktemp("endless") / "endless.gif")))


def pid_of(decoder: IsolatedDecoder) -> int:
    return decoder._process._process.pid


def test_the_same_pixels_from_one_process(media):
    decoder = IsolatedDecoder(seconds=60)
    pids = set()
    for item in media:
        there, here = decoder(item, 8), decode(item, 8)
        assert there.dtype == here.dtype == np.uint8
        np.testing.assert_array_equal(there, here)
        pids.add(pid_of(decoder))
    assert len(pids) == 1 and os.getpid() not in pids


def test_refusals_are_the_reader_s_own_lines(media, tmp_path):
    decoder = IsolatedDecoder(seconds=60)
    damaged = Media("video", str(tmp_path / "cut.mp4"))
    cut(tmp_path.joinpath(media[0].path), tmp_path / "cut.mp4", 0.6)
    for item in (Media("image", str(tmp_path / "none.png")), damaged):
        with pytest.raises(ValueError) as here:
            decode(item, 8)
        with pytest.raises(MediaError) as there:
            decoder(item, 8)
        assert str(there.value) == str(here.value) and item.path in str(there.value)
    assert decoder(media[0], 8).shape == (8, 48, 64, 3)


def test_an_endless_file_costs_its_process_and_no_more(media, endless):
    decoder = IsolatedDecoder(seconds=1)
    before = decoder(media[0], 8)
    pid = pid_of(decoder)
    with pytest.raises(MediaError, match="endless.gif' takes more than 1 seconds"):
        decoder(endless, 8)
    np.testing.assert_array_equal(decoder(media[0], 8), before)
    assert pid_of(decoder) != pid and not os.path.exists(f"/proc/{pid}")


def test_a_crash_while_decoding_is_the_file_s_and_one_between_files_is_nobody_s(media, endless):
    decoder = IsolatedDecoder(seconds=60)
    decoder(media[0], 8)
    with signalled_at_work(decoder, signal.SIGSEGV, times=2):
        with pytest.raises(MediaError, match=r"endless.gif' the decoder crashed \(SIGSEGV\)"):
            decoder(endless, 8)
    decoder(media[0], 8)
    os.kill(pid_of(decoder), signal.SIGKILL)
    decoder._process._process.wait()
    assert decoder(media[0], 8).shape == (8, 48, 64, 3)


@contextmanager
def signalled_at_work(decoder: IsolatedDecoder, number: int, times: int) -> Iterator[None]:
    """Send a signal to the decoder's first `times` processes, 0.2 s after each has been given a job."""
    is_over, seen = threading.Event(), []

    def send() -> None:
        while len(seen) < times and not is_over.wait(0.01):
            process = decoder._process
            if process is not None and process not in seen and process._has_job:
                seen.append(process)
                is_over.wait(0.2)
                os.kill(process._process.pid, number)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
    assert len(seen) == times


def test_signals_to_the_whole_group_are_not_the_decoder_s(media):
    decoder = IsolatedDecoder(seconds=60)
    decoder(media[0], 8)
    pid = pid_of(decoder)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        os.kill(pid, number)
    decoder(media[2], 8)
    assert pid_of(decoder) == pid


class Decoded(list):
    """Pixels of references, as a data loader's dataset."""

    decoder = IsolatedDecoder(seconds=60)

    def __getitem__(self, i):
        return self.decoder(super().__getitem__(i), 8), pid_of(self.decoder)


def test_each_fork_has_a_process_of_its_own(media):
    dataset = Decoded([media[0]] * 4)
    here, own = dataset[0]
    loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60)
    pids = set()
    for pixels, pid in loader:
        np.testing.assert_array_equal(pixels, here)
        pids.add(pid)
    assert len(pids) == 2 and own not in pids
    assert dataset[0][1] == own


def test_it_ends_with_a_parent_that_is_killed(media):
    code = f"""
import os
from data.media.reference import Media
from data.decoding.isolated_decoder import IsolatedDecoder
decoder = IsolatedDecoder(seconds=60)
decoder(Media("video", {media[0].path!r}), 8)
print(decoder._process._process.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    pid = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout)
    for _ in range(500):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    raise AssertionError(f"process {pid} is left")


def test_its_process_is_a_light_one():
    """The child has no torch: every data loader worker would have 700 MB beside it."""
    imported = "import sys, data.isolation.child_main, data.decoding.isolated_decoder, data.decoding.probe"
    asked = f"{imported}; print({{'torch', 'transformers'}} & {{*sys.modules}})"
    assert subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True).stdout == "set()\n"
