"""Pixels travel as bytes, and become to the bit what the processor makes of them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader
from transformers import TrainingArguments, VideoLlavaImageProcessor, VideoLlavaVideoProcessor

from data.batches.byte_pixels import BytePixels, Normalisation, as_bytes, tables
from data.batches.collator import RowCollator
from data.batches.pixels import PixelLoader
from data.batches.workers import MADE_S, Timed, WithoutRaising, loader_workers, raise_returned
from data.media.reference import Media
from data.packing.dataset import shared_prefix_rows
from data.sources.source import Source
from data.tokens.corpus import load_corpus
from data.video_llava import image_key, pixel_inputs
from train.loop.loss import NUM_LABELLED, Located
from train.loop.trainer import RowTrainer
from train.model.load import load_model

CLIPS = "pixel_values_videos"
KINDS = ("image", "video")


def in_one_go(processor, pictures, clips) -> dict[str, torch.Tensor]:
    """Return what the processor itself makes of pictures (h, w, 3) and clips (F, h, w, 3)."""
    (values,) = processor.image_processor([Image.fromarray(each) for each in pictures], return_tensors="pt").values()
    return {image_key(): values, CLIPS: processor.video_processor(clips, return_tensors="pt")[CLIPS]}


def by_bytes(processor, pictures, clips) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return what travels, and what the model gets."""
    files = {("image", str(number)): each for number, each in enumerate(pictures)}
    files |= {("video", str(number)): each for number, each in enumerate(clips)}
    loader = as_bytes(PixelLoader(processor, 2, decode=lambda item, _: files[item.kind, item.path]))
    fitted = {kind: [loader.fitted(Media(*file)) for file in files if file[0] == kind] for kind in KINDS}
    travelling = loader.inputs(fitted["image"], fitted["video"])
    return travelling, Normalisation(processor)(travelling)


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def some_media(seed: int, width: int, height: int) -> tuple[list, list]:
    pictures = [noise(seed, height, width, 3), noise(seed + 1, width, height, 3)]
    return pictures, [noise(seed + 2, 2, height, width, 3), noise(seed + 3, 2, width, height, 3)]


numbers = st.lists(st.floats(0.01, 2), min_size=3, max_size=3)


@st.composite
def processors(draw):
    edge = draw(st.integers(16, 40))
    pixels = {
        "size": draw(st.sampled_from([{"shortest_edge": edge}, {"height": edge, "width": edge}])),
        "crop_size": {"height": edge, "width": edge},
        "resample": draw(st.sampled_from([2, 3])),
        "do_rescale": draw(st.booleans()),
        "rescale_factor": draw(st.sampled_from([1 / 255, 1 / 127.5, 0.5])),
        "do_normalize": draw(st.booleans()),
        "image_mean": draw(numbers),
        "image_std": draw(numbers),
    }
    return SimpleNamespace(
        image_processor=VideoLlavaImageProcessor(**pixels), video_processor=VideoLlavaVideoProcessor(**pixels)
    )


@settings(max_examples=40)
@given(processors(), st.integers(0, 99), st.integers(9, 90), st.integers(9, 90))
def test_any_picture_and_clip_is_what_any_processor_makes_of_it(processor, seed, width, height):
    pictures, clips = some_media(seed, width, height)
    travelling, found = by_bytes(processor, pictures, clips)
    for name, values in in_one_go(processor, pictures, clips).items():
        assert travelling[name].dtype == torch.uint8
        assert found[name].dtype == values.dtype and torch.equal(found[name], values)
        for dtype in (torch.bfloat16, torch.float16):  # a tower's, which casts what it gets
            assert torch.equal(found[name].to(dtype), values.to(dtype))


@pytest.mark.parametrize("name", ["CLIP", "Siglip", "Bit", "ViT"])
def test_the_image_processors_of_other_towers(name, processor):
    other = getattr(transformers, f"{name}ImageProcessor")()
    both = SimpleNamespace(image_processor=other, video_processor=processor.video_processor)
    pictures, clips = some_media(0, 300, 260)
    travelling, found = by_bytes(both, pictures, clips)
    assert travelling[image_key()].dtype == torch.uint8
    assert torch.equal(found[image_key()], in_one_go(both, pictures, clips)[image_key()])


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16"])
def test_pictures_of_any_mode(mode, processor, tmp_path):
    pixels = noise(0, 70, 60, *([4] if mode == "RGBA" else [])).astype("uint16" if mode == "I;16" else "uint8")
    picture = Image.fromarray(pixels * (257 if mode == "I;16" else 1))
    (picture.convert("P") if mode == "P" else picture).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as saved:
        assert saved.mode == mode
    item, loader = Media("image", str(tmp_path / "a.png")), PixelLoader(processor, 8)
    fitted = as_bytes(loader).inputs([as_bytes(loader).fitted(item)], [])
    assert fitted[image_key()].dtype == torch.uint8
    assert torch.equal(Normalisation(processor)(fitted)[image_key()], loader([item])[image_key()])


class Contrast(VideoLlavaImageProcessor):
    """Normalises a picture by its own brightness."""

    def normalize(self, image, *args, **kwargs):
        return super().normalize(image - image.mean(), *args, **kwargs)


class Between(VideoLlavaImageProcessor):
    """Does not round what it has fitted."""

    def center_crop(self, image, *args, **kwargs):
        return super().center_crop(image, *args, **kwargs).astype(np.float32) + 0.25


@pytest.mark.parametrize("other", [Contrast, Between])
def test_a_processor_that_no_table_suits_keeps_its_own_numbers(other, processor):
    both = SimpleNamespace(image_processor=other(), video_processor=processor.video_processor)
    assert set(tables(both)) == {"video"}
    pictures, clips = some_media(0, 60, 50)
    travelling, found = by_bytes(both, pictures[:1], clips)
    assert (travelling[image_key()].dtype, travelling[CLIPS].dtype) == (torch.float32, torch.uint8)
    assert torch.equal(found[image_key()], in_one_go(both, pictures[:1], clips)[image_key()])


def test_everything_else_is_left_alone(processor):
    inputs = {CLIPS: torch.rand(1, 8, 3, 56, 56), "row_layout": object(), "names": ["a"]}
    inputs["mask"] = torch.zeros(3, 56, 56, dtype=torch.uint8)
    found = Normalisation(processor)(inputs)
    assert all(found[name] is value for name, value in inputs.items()) and list(found) == list(inputs)


def test_nothing_is_of_the_same_shape(processor):
    loader = PixelLoader(processor, 8)
    empty = as_bytes(loader).empty(KINDS)
    assert {value.dtype for value in empty.values()} == {torch.uint8}
    for name, value in loader.empty(KINDS).items():
        found = Normalisation(processor)(empty)[name]
        assert (found.shape, found.dtype) == (value.shape, value.dtype)


@pytest.fixture
def batches(processor, visual_tokens, mixed_file):
    """Return a function that takes a loader of pixels and returns one of all rows, made by a worker."""
    samples = load_corpus([Source(mixed_file)], processor.tokenizer, visual_tokens, 512).samples
    rows = shared_prefix_rows(samples, processor.tokenizer, visual_tokens, 4, 512, seed=0)

    def load(pixels) -> list[dict]:
        collate = WithoutRaising(Timed(RowCollator(processor, visual_tokens, KINDS, pixels)))
        loader = DataLoader(rows, sampler=rows.rows(epoch=0), collate_fn=collate, **loader_workers(1))
        return [raise_returned(batch) for batch in loader]

    return load


def test_a_worker_hands_over_a_quarter(processor, batches):
    loader = PixelLoader(processor, 8)
    as_numbers, by_byte = batches(loader), batches(as_bytes(loader))
    assert len(by_byte) > 2 and sum(batch["counts"]["clips"] for batch in by_byte) == 5
    for numbers_, bytes_ in zip(as_numbers, by_byte, strict=True):
        assert 0 < bytes_.pop(MADE_S) < 60 and numbers_.pop(MADE_S)
        for name, frames in ((image_key(), 1), (CLIPS, 8)):
            count = bytes_["counts"]["pictures" if frames == 1 else "clips"]
            assert bytes_[name].nbytes == count * frames * 3 * 56 * 56 == numbers_[name].nbytes / 4
            assert bytes_[name].is_shared() == bool(count)
        found = Normalisation(processor)(bytes_)
        assert found.keys() == numbers_.keys()
        for name, value in numbers_.items():
            assert torch.equal(found[name], value) if isinstance(value, torch.Tensor) else found[name] == value


@pytest.mark.parametrize("travel", [as_bytes, lambda loader: loader], ids=["bytes", "numbers"])
def test_the_towers_get_the_processor_s_numbers(travel, processor, batches, model_folder, tmp_path):
    """Training and evaluation are alike in this, whatever travelled."""
    model = load_model(str(model_folder)).requires_grad_()
    args = TrainingArguments(str(tmp_path), use_cpu=True, disable_tqdm=True, remove_unused_columns=False)
    trainer = RowTrainer(model=model, args=args, processing_class=processor)
    loader, taken = PixelLoader(processor, 8), []
    model.model.video_tower.register_forward_pre_hook(lambda module, args: taken.append(args[0]))
    as_numbers, travelled = (
        next(batch for batch in batches(each) if batch["counts"]["clips"]) for each in (loader, travel(loader))
    )
    expected = as_numbers[CLIPS].flatten(0, 1)
    travelled = Located(dict)(travelled)
    assert trainer.prediction_step(model, dict(travelled), prediction_loss_only=True)[0] > 0
    travelled = {
        name: value for name, value in travelled.items() if name not in ("counts", "names", MADE_S, NUM_LABELLED)
    }
    assert trainer.training_step(model, travelled, 7) > 0
    assert len(taken) == 2
    for frames in taken:
        assert frames.dtype == torch.float32 and torch.equal(frames, expected)


def test_features_are_no_pixels(processor):
    features = object()
    assert as_bytes(features) is features
    assert isinstance(as_bytes(PixelLoader(processor, 8)), BytePixels)
    assert pixel_inputs(processor, [], []) == {}
