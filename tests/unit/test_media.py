"""Pictures of every mode become upright RGB; what is no picture is refused in one line that names it."""

import os
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.decoding.image import MAX_ASPECT_RATIO, load_image
from data.errors import UserError
from data.media.file_check import check_media_file
from tests.media_samples import cut, draw_frames, installed_file, overwrite, write_clip, write_tiff

PIXELS = draw_frames(1, 20, 30)[0]
GREYS = np.array([[0, 1, 128, 129, 256, 257, 30000, 65534, 65535]], np.uint16)
GREYS_8_BIT = [0, 0, 0, 1, 1, 1, 117, 255, 255]  # 30000 / 257 = 116.7


def picture(path: Path, mode: str = "RGB", **options) -> Path:
    Image.fromarray(PIXELS).convert(mode).save(path, **options)
    return path


def refusal(path: Path | str, kind: str | None = None) -> str:
    """Return the message with which a file is refused: one line that names it."""
    with pytest.raises(UserError) as caught:
        check_media_file(path, kind) if kind else load_image(path)
    message = str(caught.value)
    assert "\n" not in message and repr(str(path)) in message
    return message


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = picture(tmp_path / "a.png", exif=exif)
    # EXIF: the side of the scene that row 0 and column 0 show.
    mirrored = np.fliplr(PIXELS)
    turned = np.swapaxes(PIXELS, 0, 1)
    upright = [PIXELS, mirrored, PIXELS[::-1, ::-1], PIXELS[::-1]]
    upright += [turned, np.rot90(PIXELS, -1), turned[::-1, ::-1], np.rot90(PIXELS)]
    np.testing.assert_array_equal(np.asarray(load_image(path)), upright[orientation - 1])


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("1", "a.png"),
        ("L", "a.png"),
        ("P", "a.gif"),
        ("CMYK", "a.jpg"),
        ("RGB", "a.webp"),
        ("YCbCr", "a.jpg"),
    ],
)
def test_modes_without_transparency_become_what_pillow_converts_them_to(tmp_path, mode, name):
    path = picture(tmp_path / name, mode)
    image = load_image(path)
    assert image.mode == "RGB" and image.size == (30, 20)
    with Image.open(path) as plain:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(plain.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_dropped_not_blended(tmp_path, mode):
    image = Image.fromarray(PIXELS).convert(mode)
    image.putalpha(Image.fromarray(PIXELS[..., 0] // 2))
    image.save(tmp_path / "a.png")
    colours = np.asarray(Image.fromarray(PIXELS).convert(mode.removesuffix("A")).convert("RGB"))
    np.testing.assert_array_equal(np.asarray(load_image(tmp_path / "a.png")), colours)


def test_a_palette_with_a_transparent_colour_keeps_its_colours(tmp_path):
    path = picture(tmp_path / "a.png", "P", transparency=0)
    with Image.open(path) as plain:
        colours = np.asarray(plain.getpalette()).reshape(-1, 3)[np.asarray(plain)]
    np.testing.assert_array_equal(np.asarray(load_image(path)), colours)


@pytest.mark.parametrize("name", ["a.png", "little.tif", "a.pgm", "big.tif"])
def test_16_bit_greys_are_scaled_not_clipped(tmp_path, name):
    path = tmp_path / name
    write_tiff(path, GREYS) if name == "big.tif" else Image.fromarray(GREYS).save(path)
    with Image.open(path) as plain:
        assert plain.mode == {"a.pgm": "I", "big.tif": "I;16B"}.get(name, "I;16")
    pixels = np.asarray(load_image(path))
    assert [pixels[0, :, channel].tolist() for channel in range(3)] == [GREYS_8_BIT] * 3


def test_every_16_bit_grey_is_rounded_to_the_nearest(tmp_path):
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(every).save(tmp_path / "a.png")
    rounded = np.floor(every * (255 / 65535) + 0.5)
    np.testing.assert_array_equal(np.asarray(load_image(tmp_path / "a.png"))[..., 1], rounded)


@pytest.mark.parametrize("value", [-1, 65536])
def test_greys_beyond_16_bits_are_refused(tmp_path, value):
    Image.fromarray(np.array([[0, value]], np.int32)).save(tmp_path / "a.tif")
    assert str(value) in refusal(tmp_path / "a.tif")


def test_floating_point_pixels_are_refused(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "a.tif")
    assert "floating point" in refusal(tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["a.gif", "a.tif", "a.png", "a.webp"])
def test_the_first_frame_of_many_is_taken(tmp_path, name):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if name == "a.webp" else {}
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
    assert load_image(tmp_path / name).getcolors() == [(48, (255, 0, 0))]


@pytest.mark.parametrize(
    "name", ["astronaut.png", "camera.png", "rocket.jpg", "multipage.tif", "no_time_for_that_tiny.gif"]
)
def test_real_pictures_equal_what_pillow_reads(name):
    path = installed_file("skimage", f"data/{name}")
    with Image.open(path) as plain:
        np.testing.assert_array_equal(np.asarray(load_image(path)), np.asarray(plain.convert("RGB")))


def test_file_names_may_be_strange(tmp_path):
    path = tmp_path / os.fsdecode(b"a b:c%d\xff'.png")
    np.testing.assert_array_equal(np.asarray(load_image(picture(path))), PIXELS)


@pytest.mark.parametrize("kind", ["image", "video"])
def test_what_is_no_readable_file_is_named(tmp_path, kind):
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    assert "No such file" in refusal(tmp_path / "absent\nname", kind)
    assert "not a file" in refusal(tmp_path, kind)
    assert "not a file" in refusal(tmp_path / "pipe", kind)  # and does not wait for a writer
    assert "0 bytes" in refusal(tmp_path / "empty", kind)
    assert "null byte" in refusal("a\0b", kind)
    assert "too long" in refusal("x" * 300, kind)


def test_a_file_without_permission_is_named(tmp_path):
    path = picture(tmp_path / "a.png")
    path.chmod(0)
    user = os.geteuid()
    if user == 0:  # root may read everything: be nobody for a moment
        os.seteuid(65534)
    try:
        assert "Permission denied" in refusal(path)
    finally:
        os.seteuid(user)
        path.chmod(stat.S_IRUSR)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.gif", "a.bmp", "a.tif", "a.webp", "a.jp2", "a.avif"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.9])
def test_truncated_pictures_are_refused(tmp_path, name, share):
    whole = tmp_path / name
    Image.effect_noise((60, 40), 99).convert("RGB").save(whole)  # hard to compress: any cut takes pixels away
    load_image(whole)
    assert refusal(cut(whole, tmp_path / f"cut-{name}", share))


def test_damaged_pictures_are_refused(tmp_path):
    whole = picture(tmp_path / "a.png")
    damaged = overwrite(whole, tmp_path / "damaged.png", 60, bytes(40))
    assert "cannot be read" in refusal(damaged)


def test_what_is_no_picture_is_refused(tmp_path):
    (tmp_path / "text.jpg").write_text("<!DOCTYPE html><title>404 Not Found</title>")
    assert "not a picture" in refusal(tmp_path / "text.jpg")
    (tmp_path / "noise.png").write_bytes(np.random.default_rng(0).bytes(5000))
    assert "not a picture" in refusal(tmp_path / "noise.png")


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.avi", "a.ts"])
def test_a_clip_called_a_picture_is_refused_at_start_up(tmp_path, name):
    clip = write_clip(tmp_path / name, draw_frames(12), "libvpx-vp9" if name == "a.webm" else "mpeg4")
    check_media_file(clip, "video")
    mislabelled = clip.rename(tmp_path / "clip.jpg")
    assert "holds video data" in refusal(mislabelled, "image")
    assert "holds video data" in refusal(mislabelled)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.bmp", "a.tif", "a.avif"])
def test_a_picture_called_a_clip_is_refused_at_start_up(tmp_path, name):
    check_media_file(picture(tmp_path / name), "image")
    mislabelled = (tmp_path / name).rename(tmp_path / "picture.mp4")
    assert "holds image data" in refusal(mislabelled, "video")


def test_a_gif_may_be_either(tmp_path):
    path = picture(tmp_path / "a.gif")
    check_media_file(path, "image")
    check_media_file(path, "video")


def test_decompression_bombs_are_refused(tmp_path, monkeypatch):
    path = picture(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 599)  # one less than it has: Pillow only warns up to twice
    assert "600 pixels" in refusal(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 299)
    assert "600 pixels" in refusal(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)
    assert load_image(path).size == (30, 20)


def test_absurdly_thin_pictures_are_refused(tmp_path):
    Image.new("RGB", (2 * MAX_ASPECT_RATIO, 2)).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png").width == 400
    for size in [(2 * MAX_ASPECT_RATIO + 1, 2), (1, MAX_ASPECT_RATIO + 1), (100_000, 2)]:
        Image.new("RGB", size).save(tmp_path / "a.png")
        assert f"{size[0]} x {size[1]}" in refusal(tmp_path / "a.png")
