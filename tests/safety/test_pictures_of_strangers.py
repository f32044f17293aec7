"""Pictures from strangers start no program, and those that people have are opened."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.decoding.image import FORMATS, load_image, open_picture
from data.decoding.probe import File, probe
from data.errors import UserError

GRADIENT = np.arange(24 * 32 * 3, dtype=np.uint8).reshape(24, 32, 3)
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 24\n%%EndComments\nshowpage\n%%EOF\n"
EXACT = ("PNG", "BMP", "DIB", "TIFF", "PPM", "TGA", "PCX", "SGI", "ICO", "QOI", "DDS")
LOSSY = ("JPEG", "WEBP", "AVIF", "JPEG2000", "HEIF", "GIF", "ICNS")
SIZES = {"ICO": (32, 32), "ICNS": (1024, 1024), "HEIF": (64, 64)}


@pytest.fixture
def ghostscript(tmp_path, monkeypatch) -> Path:
    """Return the file that appears when anybody calls `gs`."""
    (tmp_path / "bin").mkdir()
    program, mark = tmp_path / "bin" / "gs", tmp_path / "it-ran"
    program.write_text(f"#!/bin/sh\ntouch {mark}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return mark


@pytest.mark.parametrize("name", ["x.png", "x.eps", "x.jpg", "x"])
def test_postscript_starts_no_ghostscript(name, tmp_path, ghostscript):
    (tmp_path / name).write_bytes(POSTSCRIPT)
    with pytest.raises(UserError, match="not a picture in a format that is read"):
        load_image(tmp_path / name)
    (reason,) = probe(File("image", str(tmp_path / name)))
    assert "not a picture in a format that is read" in reason
    assert not ghostscript.exists()


@pytest.mark.parametrize("name", ["x.wmf", "x.fits", "x.h5", "x.xpm"])
def test_no_format_is_opened_that_is_not_listed(name, tmp_path):
    heads = {
        "x.wmf": b"\xd7\xcd\xc6\x9a\0\0" + bytes(4) + b"\x20\0\x20\0\x60\0" + bytes(24),
        "x.fits": b"SIMPLE  =                    T".ljust(2880),
        "x.h5": b"\x89HDF\r\n\x1a\n" + bytes(64),
        "x.xpm": b'/* XPM */\nstatic char *x[] = {\n"1 1 1 1",\n"a c #ff0000",\n"a"};\n',
    }
    (tmp_path / name).write_bytes(heads[name])
    with pytest.raises(UserError):
        load_image(tmp_path / name)


@pytest.mark.parametrize("kind", [*EXACT, *LOSSY])
def test_formats_that_people_have_are_opened(kind, tmp_path):
    plain = Image.fromarray(GRADIENT).resize(SIZES.get(kind, (32, 24)))
    plain.save(tmp_path / "x.bin", format=kind)
    found = np.asarray(load_image(tmp_path / "x.bin")).astype(int)
    assert probe(File("image", str(tmp_path / "x.bin"))) == [None]
    assert np.abs(found - np.asarray(plain)).mean() <= (0 if kind in EXACT else 40)


def test_what_is_listed_is_what_is_tested_and_photoshop():
    """Pillow writes no PSD, which no other program is asked for either."""
    assert {*EXACT, *LOSSY, "PSD"} == set(FORMATS)


def test_the_line_for_a_phone_s_picture_names_what_to_install(tmp_path, monkeypatch):
    Image.fromarray(GRADIENT).resize((64, 64)).save(tmp_path / "IMG_0001.HEIC", format="HEIF")
    monkeypatch.delitem(Image.OPEN, "HEIF")  # as it is without pillow-heif
    with pytest.raises(UserError, match=r"IMG_0001.HEIC' is HEIC, .* pip install -e '.\[heic\]'"):
        load_image(tmp_path / "IMG_0001.HEIC")
    assert "HEIC" in probe(File("image", str(tmp_path / "IMG_0001.HEIC")))[0]


def test_a_picture_of_a_phone_with_a_second_one_in_it_is_its_first(tmp_path):
    first, second = (Image.new("RGB", (32, 24), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "x.jpg", format="MPO", save_all=True, append_images=[second])
    with open_picture(tmp_path / "x.jpg") as image:
        assert image.format == "MPO"
    assert probe(File("image", str(tmp_path / "x.jpg"))) == [None]
    assert load_image(tmp_path / "x.jpg").getpixel((3, 3))[0] > 250
