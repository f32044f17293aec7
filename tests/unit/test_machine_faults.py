"""Faults of the machine are waited for, and never said of a sound file."""

import errno
import os
import resource
import signal
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.decoding.decode import decode
from data.decoding.isolated_decoder import IsolatedDecoder
from data.errors import MediaError, OutageError, UserError, is_passing, refused
from data.isolation.child_process import ChildProcess
from data.media.reference import Media, Segment
from data.patience import patiently
from tests.media_samples import draw_frames, write_clip, write_endless
from tests.unit.test_isolated_decoder import signalled_at_work

SECONDS = 60


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Media:
    return Media("video", str(write_clip(tmp_path_factory.mktemp("media") / "clip.mp4", draw_frames(24))))


@pytest.fixture
def member(clip, tmp_path) -> Media:
    """The clip within another file, as in a tar shard: it is copied before it is decoded."""
    content = Path(clip.path).read_bytes()
    (tmp_path / "shard.tar").write_bytes(bytes(512) + content)
    return Media("video", "shard.tar/clip.mp4", place=Segment(str(tmp_path / "shard.tar"), 512, len(content)))


@pytest.fixture
def pauses(monkeypatch):
    """pauses(...): seconds between tries."""
    monkeypatch.setattr("data.patience.PAUSES", (0, 0))
    return lambda *seconds: monkeypatch.setattr("data.patience.PAUSES", seconds)


@pytest.fixture
def decoder(pauses) -> IsolatedDecoder:
    return IsolatedDecoder(SECONDS)


def pid_of(decoder: IsolatedDecoder) -> int:
    return decoder._process._process.pid


@contextmanager
def limited(pid: int, what: int, number: int):
    """Limit what another process may have; yields a function that lifts the limit."""
    before = resource.prlimit(pid, what, (number, resource.prlimit(pid, what)[1]))
    yield lambda: resource.prlimit(pid, what, before)
    resource.prlimit(pid, what, before)


# A limit on the size of files stands for a full TMPDIR, one on open files for their lack.
LIMITS = [
    pytest.param(resource.RLIMIT_FSIZE, 100, "cannot be read: File too large", id="full disk"),
    pytest.param(resource.RLIMIT_NOFILE, 3, "cannot be copied: ", id="open files"),
]


@pytest.mark.parametrize(("what", "number", "said"), LIMITS)
def test_what_the_system_lacks_is_not_the_file_s(what, number, said, decoder, clip, member, capfd):
    expected = decoder(clip, 8)
    with limited(pid_of(decoder), what, number):
        with pytest.raises(OutageError, match=f"{said}.*tried 3 times.*the same command goes on"):
            decoder(member, 8)
    assert capfd.readouterr().err.count("waiting 0 s: 'shard.tar/clip.mp4'") == 2
    np.testing.assert_array_equal(decoder(member, 8), expected)


@pytest.mark.parametrize(("what", "number", "said"), LIMITS)
def test_what_the_system_lacks_for_a_moment_is_waited_for(what, number, said, decoder, clip, member, pauses):
    expected = decoder(clip, 8)
    pauses(0, 0, 1)
    with limited(pid_of(decoder), what, number) as lift:
        timer = threading.Timer(0.3, lift)
        timer.start()
        np.testing.assert_array_equal(decoder(member, 8), expected)
        timer.join()


def test_a_decoder_that_the_system_kills_says_nothing_of_its_file(decoder, clip, tmp_path):
    expected = decoder(clip, 8)
    os.kill(pid_of(decoder), signal.SIGSTOP)  # so that it has not answered before it is killed
    with signalled_at_work(decoder, signal.SIGKILL, times=1):
        np.testing.assert_array_equal(decoder(clip, 8), expected)
    endless = Media("video", str(write_endless(tmp_path / "endless.gif")))
    with signalled_at_work(decoder, signal.SIGKILL, times=3):
        with pytest.raises(OutageError, match=r"endless.gif': the decoder was killed \(SIGKILL\); is memory short"):
            decoder(endless, 8)


def test_a_stall_is_not_the_file_s(clip, pauses):
    """A stopped process stands for one that waits for its disk."""
    decoder = IsolatedDecoder(seconds=1)
    expected = decoder(clip, 8)
    os.kill(pid_of(decoder), signal.SIGSTOP)
    np.testing.assert_array_equal(decoder(clip, 8), expected)


def test_a_file_is_not_blamed_while_others_take_too_long_as_well(clip, tmp_path, pauses):
    decoder = IsolatedDecoder(seconds=1)
    other = Media("video", str(tmp_path / "other.gif"))
    Image.fromarray(draw_frames(1)[0]).save(other.path)
    decoder(other, 1)
    endless = Media("video", str(write_endless(tmp_path / "endless.gif")))
    (tmp_path / "sound.gif").write_bytes(Path(other.path).read_bytes())
    write_endless(Path(other.path))  # the last sound file: now it takes too long
    pauses()
    with pytest.raises(OutageError, match="endless.gif' takes more than 1 seconds"):
        decoder(endless, 8)
    decoder(replace(other, path=str(tmp_path / "sound.gif")), 1)
    with pytest.raises(MediaError, match="endless.gif' takes more than 1 seconds"):
        decoder(endless, 8)


def test_content_is_blamed_when_a_second_try_says_so_too(decoder, tmp_path, capfd):
    (tmp_path / "noise.mp4").write_bytes(bytes(4000))
    with pytest.raises(MediaError, match="noise.mp4"):
        decoder(Media("video", str(tmp_path / "noise.mp4")), 8)
    with pytest.raises(MediaError, match="No such file"):
        decoder(Media("video", str(tmp_path / "none.mp4")), 8)
    assert "waiting" not in capfd.readouterr().err


def test_a_file_that_is_sound_the_second_time_is_sound(decoder, clip, tmp_path, monkeypatch):
    """Its bytes may have been damaged on their way from the disk."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(bytes(4000))
    ask, asked = ChildProcess.ask, []

    def ask_and_mend(self, job):
        answer = ask(self, job)
        asked.append(answer.result)
        path.write_bytes(Path(clip.path).read_bytes())
        return answer

    monkeypatch.setattr(ChildProcess, "ask", ask_and_mend)
    np.testing.assert_array_equal(decoder(replace(clip, path=str(path)), 8), decode(clip, 8))
    assert len(asked) == 2 and "clip.mp4" in asked[0][0]


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES, errno.ENOSPC, errno.EMFILE, errno.ENOMEM])
def test_errors_of_the_machine(number):
    error = OSError(number, os.strerror(number))
    assert is_passing(error) and type(refused("'a' cannot be read", error)) is OutageError


@pytest.mark.parametrize(
    "error", [FileNotFoundError(errno.ENOENT, "x"), OSError("image file is truncated"), EOFError()]
)
def test_errors_of_a_file(error):
    assert not is_passing(error) and type(refused("'a' cannot be read", error)) is UserError


def test_patience_ends(pauses):
    tries = []

    def fail() -> None:
        tries.append(len(tries))
        raise OutageError("the disk is full")

    with pytest.raises(
        OutageError, match=r"^the disk is full \(tried 3 times in 0 seconds\); when that has passed, the"
    ):
        patiently(fail)
    assert len(tries) == 3
