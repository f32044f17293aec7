"""The towers get what the checkpoint's processor makes of the decoded pixels in one go."""

import numpy as np
import pytest
import torch
from PIL import Image

from data.batches.pixels import PixelLoader
from data.decoding.decode import decode
from data.media.reference import Media
from data.video_llava import fit, image_key


def test_in_two_stages_as_in_one(processor, media_folder):
    pictures = [Media("image", str(media_folder / f"picture{number}.png")) for number in range(3)]
    clips = [Media("video", str(media_folder / f"clip{number}.mp4")) for number in range(4)]
    inputs = PixelLoader(processor, 8)([clips[0], *pictures, *clips[1:]])
    (at_once,) = processor.image_processor(
        [Image.open(item.path).convert("RGB") for item in pictures], return_tensors="pt"
    ).values()
    assert torch.equal(inputs[image_key()], at_once)
    at_once = processor.video_processor([decode(item, 8) for item in clips], return_tensors="pt")
    assert torch.equal(inputs["pixel_values_videos"], at_once["pixel_values_videos"])


def test_a_fitted_picture_or_clip_is_of_the_towers_size_in_uint8(processor, media_folder):
    load = PixelLoader(processor, 8)
    picture = load.fitted(Media("image", str(media_folder / "picture0.png")))
    clip = load.fitted(Media("video", str(media_folder / "clip0.mp4")))
    assert (picture.shape, clip.shape) == ((3, 56, 56), (8, 3, 56, 56))
    assert {picture.dtype, clip.dtype} == {torch.uint8}


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (3, 1), (3, 3), (3, 50), (50, 3)])
def test_a_picture_of_few_rows_keeps_its_colours(size, processor):
    pixels = np.broadcast_to(np.array([250, 7, 90], np.uint8), (*size, 3))
    for kind, given in (("image", pixels), ("video", np.stack([pixels] * 3))):
        fitted = fit(processor, kind, given)
        assert fitted.shape[-3:] == (3, 56, 56) and (fitted == torch.tensor([250, 7, 90])[:, None, None]).all()


def test_media_that_are_absent_have_no_key(processor):
    assert PixelLoader(processor, 8)([]) == {}


def test_a_picture_is_decoded_to_rgb(tmp_path):
    Image.fromarray(np.full((40, 30), 7, np.uint8)).save(tmp_path / "grey.png")
    pixels = decode(Media("image", str(tmp_path / "grey.png")), 8)
    assert pixels.shape == (40, 30, 3) and (pixels == 7).all()
