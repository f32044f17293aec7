"""A saved processor is the one that was used: ids, frames, and files that transformers 4.57 reads."""

import json
import shutil

import numpy as np
import pytest
from transformers import AutoProcessor, LlamaTokenizer, VideoLlavaProcessor
from transformers.video_utils import load_video

from data.decoding.video import read_frames
from data.errors import UserError
from data.processor import set_up_processor
from data.processor_files import CONVERSATIONS, check_saved_processor, save_processor
from data.video_llava import SERVED_AS_TRAINED, fit, pixel_inputs
from tests.llama_tokenizers import KINDS
from tests.published_layout import write_published_layout
from train.model.build import build_config, build_processor

TEXTS = [*("".join(turns) for turns in CONVERSATIONS), "USER: <video>\nWhat? ASSISTANT: red</s> USER: a", " b </s> c"]


def folder_of(kind, tmp_path):
    """Make a base as it is found, with a tokenizer of some kind: its processor and its config."""
    if kind == "published":
        write_published_layout(tmp_path / "base")
    else:
        tmp_path.mkdir(exist_ok=True)
        tokenizer = kind(tmp_path)
        build_processor(tokenizer, image_size=56).save_pretrained(tmp_path / "base")
        build_config("tiny", tokenizer).save_pretrained(tmp_path / "base")
        if isinstance(tokenizer, LlamaTokenizer):
            config = json.loads((tmp_path / "base" / "tokenizer_config.json").read_text())
            (tmp_path / "base" / "tokenizer_config.json").write_text(json.dumps({**config, "legacy": tokenizer.legacy}))
    return tmp_path / "base"


@pytest.fixture(params=["published", *KINDS], ids=lambda kind: getattr(kind, "__name__", kind))
def base(request, tmp_path):
    return folder_of(request.param, tmp_path)


def test_saved_once_and_twice_the_ids_stay(base, tmp_path):
    before, *_ = set_up_processor(str(base), num_frames=8)
    ids = [before.tokenizer(text).input_ids for text in TEXTS]
    config = build_config("tiny", before.tokenizer)
    save_processor(before, tmp_path / "once")
    once, *_ = set_up_processor(str(tmp_path / "once"), num_frames=8, config=config)
    save_processor(once, tmp_path / "twice")
    for folder in ("once", "twice"):
        after = VideoLlavaProcessor.from_pretrained(tmp_path / folder)
        assert [after.tokenizer(text).input_ids for text in TEXTS] == ids
        assert type(after.tokenizer) is type(before.tokenizer)
        assert after.chat_template == SERVED_AS_TRAINED + before.chat_template
    once, twice = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("once", "twice"))
    assert once == twice


def test_files_hold_what_transformers_4_57_needs(base, tmp_path):
    """Tried by hand with 4.57.6, see docs/compatibility.md: these are the things that it fails on."""
    save_processor(set_up_processor(str(base), num_frames=8)[0], tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] in ("LlamaTokenizer", "PreTrainedTokenizerFast")  # 4.57 has no TokenizersBackend
    assert not isinstance(config.get("extra_special_tokens"), list)
    assert (tmp_path / "saved" / "tokenizer.json").is_file()
    if config["tokenizer_class"] == "LlamaTokenizer":
        assert "add_prefix_space" not in config  # asks for a tokenizer.model
        assert isinstance(config["legacy"], bool) and isinstance(config["add_bos_token"], bool)
    for name, kind in {
        "preprocessor": "VideoLlavaImageProcessor",
        "video_preprocessor": "VideoLlavaVideoProcessor",
    }.items():
        part = json.loads((tmp_path / "saved" / f"{name}_config.json").read_text())
        assert kind in (part.get("image_processor_type"), part.get("video_processor_type"))
        assert part["crop_size"] == {"height": 56, "width": 56}


def test_another_tokenizer_in_the_files_is_noticed(tmp_path):
    processor, *_ = set_up_processor(str(folder_of("published", tmp_path)), num_frames=8)
    save_processor(processor, tmp_path / "saved")
    file = tmp_path / "saved" / "tokenizer_config.json"
    config = json.loads(file.read_text())
    assert config["legacy"] is True
    file.write_text(json.dumps({**config, "legacy": False}))
    with pytest.raises(UserError, match="would not be the one that was trained with"):
        check_saved_processor(processor, tmp_path / "saved")


@pytest.mark.parametrize("num_frames", [8, 3])
def test_transformers_takes_the_frames_that_we_take(num_frames, model_folder, media_folder, tmp_path):
    """It samples while it decodes, and a clip whose frames it is given; decoders differ, choices do not."""
    processor, *_ = set_up_processor(str(model_folder), num_frames=num_frames)
    save_processor(processor, tmp_path / "saved")
    clip = str(media_folder / "clip1.mp4")
    wanted = read_frames(clip, num_frames)
    theirs = AutoProcessor.from_pretrained(tmp_path / "saved")
    assert theirs.video_processor.do_sample_frames
    taken, _ = load_video(clip, backend="pyav", sample_indices_fn=theirs.video_processor.sample_frames)
    assert len(taken) == num_frames and np.array_equal(taken, wanted)
    ready = theirs(text="<video>", videos=[wanted])  # as the model card does
    everything, metadata = load_video(clip, backend="pyav", sample_indices_fn=lambda metadata, **_: np.arange(12))
    inputs = theirs(text="USER: <video>\nWhat? ASSISTANT:", videos=[everything], video_metadata=[metadata])
    pixels = pixel_inputs(processor, [], [fit(processor, "video", wanted)])["pixel_values_videos"]
    assert np.allclose(inputs["pixel_values_videos"], pixels, atol=1e-6)
    assert np.allclose(ready["pixel_values_videos"], pixels, atol=1e-6)
    assert np.count_nonzero(np.asarray(inputs["input_ids"]) == theirs.video_token_id) == num_frames * 17


def test_our_own_frames_are_not_sampled_again(model_folder, tmp_path):
    """A processor that was saved samples clips; the one that we set up from its files takes frames as they are."""
    save_processor(set_up_processor(str(model_folder), num_frames=8)[0], tmp_path / "saved")
    shutil.copy(model_folder / "config.json", tmp_path / "saved")
    processor, visual_tokens, _ = set_up_processor(str(tmp_path / "saved"), num_frames=2)
    assert visual_tokens.video == 2 * 17
    assert fit(processor, "video", np.zeros((2, 40, 50, 3), np.uint8)).shape == (2, 3, 56, 56)
