"""Caches that several people share: an entry that is no file of the expected kind is made anew, not waited for."""

import os
import shutil
import stat
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import TrainingArguments

from data.batches.pixels import PixelLoader
from data.cache.frame_cache import FrameCache
from data.cache.tensor_files import TensorFiles, _about
from data.decoding.decode import decode
from data.errors import MediaError, SettingError, UserError
from data.media.download import path_of
from data.media.reference import Address, Downloads, Media
from tests.serving import serving
from train.loop.ready_features import replace_towers
from train.model.build import build_config, build_model


def poisoned(path: Path, key: dict, tensor: torch.Tensor) -> None:
    """Write an entry that is sound in itself: name, key, check sum and shape agree with each other."""
    save_file({"tensor": tensor}, path, metadata=_about(key, tensor))


ATTACKS = {
    "a pipe": lambda path, key, sound: os.mkfifo(path),
    "a link": lambda path, key, sound: path.symlink_to(shutil.copy(sound, path.parent / "elsewhere")),
    "a link to nothing": lambda path, key, sound: path.symlink_to("/nowhere"),
    "a link to itself": lambda path, key, sound: path.symlink_to(path),
    "a folder": lambda path, key, sound: path.mkdir(),
    "more frames": lambda path, key, sound: poisoned(path, key, torch.zeros(80, 3, 56, 56, dtype=torch.uint8)),
    "other pixels": lambda path, key, sound: poisoned(path, key, torch.zeros(8, 3, 56, 57, dtype=torch.uint8)),
    "no dimension": lambda path, key, sound: poisoned(path, key, torch.zeros(1, dtype=torch.uint8)[0]),
    "another type": lambda path, key, sound: poisoned(path, key, torch.zeros(8, 3, 56, 56)),
    "no safetensors": lambda path, key, sound: path.write_bytes(b"x" * 100),
}


@pytest.fixture
def clip(media_folder) -> Media:
    return Media("video", str(media_folder / "clip0.mp4"))


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_entry_of_the_frame_cache_that_is_none_is_made_anew(attack, processor, clip, tmp_path):
    cache, plain = FrameCache(tmp_path / "cache", processor, 8), PixelLoader(processor, 8)
    loader = PixelLoader(processor, 8, cache)
    expected = loader.fitted(clip)
    key, path = cache.key_of(clip), cache._files.path(cache.key_of(clip))
    path.rename(tmp_path / "sound")
    ATTACKS[attack](path, key, tmp_path / "sound")
    assert clip not in cache
    assert torch.equal(loader.fitted(clip), expected) and torch.equal(expected, plain.fitted(clip))
    if attack != "a folder":  # it may be somebody's
        assert clip in cache and not path.is_symlink() and path.is_file()


@pytest.mark.parametrize("attack", ["a pipe", "a link", "more frames", "another type", "no safetensors"])
def test_an_entry_of_the_feature_cache_that_is_none_is_made_anew(attack, processor, clip, tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, disable_tqdm=True)

    def prepare():
        model = build_model(build_config("tiny", processor.tokenizer)).eval().requires_grad_(False)
        return replace_towers(model, PixelLoader(processor, 8), str(tmp_path / "cache"), [clip], args)

    loader = prepare()
    expected = loader.fitted(clip).clone()
    key, path = loader._key(clip), loader._files.path(loader._key(clip))
    path.rename(tmp_path / "sound")
    ATTACKS[attack](path, key, tmp_path / "sound")
    assert torch.equal(prepare().fitted(clip), expected)
    assert path.is_file() and not path.is_symlink()


@pytest.mark.parametrize("name", [".size", ".x.reeltune-unfinished"])
def test_a_pipe_or_link_among_a_cache_s_own_files_is_not_followed(name, tmp_path):
    (tmp_path / "precious").write_text("thesis")
    for number, attack in enumerate((os.mkfifo, lambda path: path.symlink_to(tmp_path / "precious"))):
        folder = tmp_path / f"cache{number}"
        folder.mkdir()
        attack(folder / name)
        try:
            TensorFiles(folder, max_bytes=1000)
        except OSError:
            assert name == ".size"
    (tmp_path / "sizes").mkdir()
    (tmp_path / "sizes" / ".size").write_text("lies")
    TensorFiles(tmp_path / "sizes", max_bytes=1000)
    assert (tmp_path / "precious").read_text() == "thesis"


def test_a_cache_whose_count_is_a_pipe_is_one_line(processor, tmp_path):
    (tmp_path / "cache").mkdir()
    os.mkfifo(tmp_path / "cache" / ".size")
    with pytest.raises(SettingError, match="frame_cache: cannot write .*; .*take another place, or remove") as caught:
        FrameCache(tmp_path / "cache", processor, 8, max_gib=1)
    assert "\n" not in str(caught.value)


@pytest.fixture
def umask():
    before = os.umask(0o002)
    yield
    os.umask(before)


class Fickle(BaseHTTPRequestHandler):
    """Answers with the bodies of its server, one after the other, the last for ever."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.server.asked += 1
        body = self.server.bodies.pop(0) if len(self.server.bodies) > 1 else self.server.bodies[0]
        self.send_response(200)
        self.send_header("Content-Type", "video/mp4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def at(tmp_path, no_pauses):
    """at(bodies) is a clip behind an address whose server answers so."""
    servers = []

    def start(*bodies: bytes) -> Media:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Fickle)
        server.bodies, server.asked = list(bodies), 0
        context = serving(server)
        context.__enter__()
        servers.append((server, context))
        url = f"http://127.0.0.1:{server.server_port}/clip.mp4"
        return Media("video", url, place=Address(url, Downloads(str(tmp_path / "media"), 2**20, 10, ("127.0.0.1",))))

    start.asked = lambda: servers[-1][0].asked
    yield start
    for _, context in servers:
        context.__exit__(None, None, None)


PAGE = b"\r\n <!DOCTYPE html>\n<html><body>Please log in</body></html>"


def test_a_web_page_in_place_of_a_clip_is_not_kept(at, tmp_path):
    item = at(PAGE)
    with pytest.raises(UserError, match="the server sends a web page and no file") as caught:
        decode(item, 8)
    assert "\n" not in str(caught.value)
    assert not [path for path in (tmp_path / "media").rglob("*.mp4*") if path.is_file() and path.stat().st_size]


def test_a_download_that_does_not_decode_is_fetched_once_more(at, clip):
    content = Path(clip.path).read_bytes()
    item = at(content[: len(content) // 2], content)
    assert (decode(item, 8) == decode(clip, 8)).all() and at.asked() == 2
    broken = at(b"no clip", b"no clip either")
    for _ in range(3):
        with pytest.raises(UserError):
            decode(broken, 8)
    assert at.asked() == 2, "once more, and not in every epoch"


def test_shared_caches_have_the_modes_of_the_umask(umask, processor, at, clip, tmp_path):
    item = at(Path(clip.path).read_bytes())
    cache = FrameCache(tmp_path / "cache", processor, 8, max_gib=1)
    assert PixelLoader(processor, 8, cache).fitted(clip).shape[0] == 8
    decode(item, 8)
    assert Path(path_of(item.place)).is_file()
    made = [*(tmp_path / "cache").rglob("*"), *(tmp_path / "media").rglob("*"), tmp_path / "cache", tmp_path / "media"]
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in made}
    assert len(modes) > 5
    assert {path: oct(mode) for path, mode in modes.items() if mode != (0o775 if path.is_dir() else 0o664)} == {}


def test_a_bad_clip_from_a_disk_is_not_asked_for_again(tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no clip")
    with pytest.raises((MediaError, UserError)):
        decode(Media("video", str(tmp_path / "bad.mp4")), 8)
    assert (tmp_path / "bad.mp4").read_bytes() == b"no clip"
