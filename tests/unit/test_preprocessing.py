"""preprocessing.json: written with a model, honoured by whoever asks it, compared with its processor."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoProcessor

from data.errors import UserError
from data.media.frame_sampling import UNIFORM, FrameSampling
from data.media.reference import Media
from data.processor import set_up_processor
from data.processor_files import save_processor
from tests.tiny_adapters import random_adapter
from train.preprocessing.contract import (
    PREPROCESSING,
    check_processor,
    preprocessing_of,
    read_preprocessing,
    write_preprocessing,
)
from train.recipe.recipe import Data
from train.recipe.yaml_text import to_yaml
from train.results.artifact import open_artifact
from train.results.asking import ways_of_asking
from train.results.loading import processor_of


def data_of(**values) -> Data:
    return Data(train=[{"path": "train.json"}], **values)


@pytest.fixture(scope="module")
def saved(model_folder, tmp_path_factory) -> Path:
    """An adapter as training leaves it, of 6 frames and with a system prompt."""
    folder = tmp_path_factory.mktemp("run")
    random_adapter(model_folder).save_pretrained(folder)
    processor, *_ = set_up_processor(str(model_folder), num_frames=6)
    save_processor(processor, folder)
    write_preprocessing(folder, preprocessing_of(processor, data_of(num_frames=6, system_prompt="Be brief.")))
    (folder / "recipe.yaml").write_text(to_yaml({"data": {"num_frames": 6, "system_prompt": "Be brief."}}))
    return folder


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy, to be changed."""
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def change(file: Path, **values) -> None:
    content = json.loads(file.read_text())
    file.write_text(json.dumps({name: value for name, value in (content | values).items() if value != "(gone)"}))


def test_what_is_written_is_read_and_fits_its_processor(saved):
    said = json.loads((saved / PREPROCESSING).read_text())
    assert (said["num_frames"], said["system_prompt"]) == (6, "Be brief.")
    assert said["frame_sampling"] == {"rule": "uniform", "version": 1, "trained_with": "uniform"}
    assert [said[part][key] for part in ("pictures", "clips") for key in ("height", "width", "tokens")] == [
        *(56, 56, 16),
        *(56, 56, 6 * 17),
    ]
    assert len(said["prompt_template_sha256"]) == 64 and {"transformers", "torch", "av"} < said["versions"].keys()
    artifact = open_artifact(str(saved))
    processor = processor_of(artifact)
    assert (artifact.num_frames, artifact.system_prompt, artifact.sampling) == (6, "Be brief.", UNIFORM)
    again = preprocessing_of(processor, data_of(num_frames=6, system_prompt="Be brief."))
    assert again == artifact.preprocessing


@pytest.mark.parametrize("way", ["jitter", "fps"])
def test_the_rule_is_that_of_training_but_for_its_chance(way, processor, tmp_path):
    rate = 2.0 if way == "fps" else None
    write_preprocessing(
        tmp_path, preprocessing_of(processor, data_of(frame_sampling=way, frames_per_second=rate, num_frames=8))
    )
    kept = read_preprocessing(tmp_path / PREPROCESSING)
    assert kept.trained_with == way
    assert kept.sampling == (FrameSampling("fps", 2.0) if way == "fps" else UNIFORM)


UNKNOWN = {
    "format": ({"format": 2}, "format 2 is not known here (known: 1); a later reeltune wrote it: install that one"),
    "no format": ({"format": "(gone)"}, "format None is not known here"),
    "version": (
        {"frame_sampling": {"rule": "uniform", "version": 2, "trained_with": "uniform"}},
        "frame_sampling 'uniform', version 2, is not known here (known: uniform 1, fps 1); a later reeltune chose its "
        "frames: install that one",
    ),
    "rule": ({"frame_sampling": {"rule": "keyframes", "version": 1, "trained_with": "uniform"}}, "'keyframes'"),
    "jitter": ({"frame_sampling": {"rule": "jitter", "version": 1, "trained_with": "jitter"}}, "'jitter', version 1"),
    "no rate": ({"frame_sampling": {"rule": "fps", "version": 1, "trained_with": "fps"}}, "frames_per_second"),
    "rate": (
        {"frame_sampling": {"rule": "fps", "version": 1, "trained_with": "fps", "frames_per_second": float("nan")}},
        "damaged: frame_sampling.frames_per_second",
    ),
    "frames": ({"num_frames": 0}, "is damaged: num_frames: "),
    "many frames": ({"num_frames": 10**9}, "is damaged: num_frames: "),
    "text": ({"num_frames": "8"}, "restore the file, or remove it to have the model asked as its recipe says"),
    "prompt": ({"system_prompt": ["x"]}, "is damaged: system_prompt: "),
    "no prompt": ({"system_prompt": "(gone)"}, "is damaged: system_prompt: "),
    "template": ({"prompt_template_sha256": None}, "is damaged: prompt_template_sha256: "),
    "pictures": ({"pictures": []}, "is damaged: pictures: "),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_known_is_an_error_that_says_what_to_do(name, folder):
    values, words = UNKNOWN[name]
    change(folder / PREPROCESSING, **values)
    with pytest.raises(UserError) as caught:
        open_artifact(str(folder))
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert str(folder / PREPROCESSING) in str(caught.value)


def test_another_chat_template_than_that_of_training_is_an_error(folder):
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text().replace("USER: ", "HUMAN: "))
    with pytest.raises(UserError, match="the chat template of its processor is another one than that of training .* in "
                       "preprocessing.json\\); restore chat_template.jinja, or"):  # fmt: skip
        processor_of(open_artifact(str(folder)))
    (folder / PREPROCESSING).unlink()
    processor_of(open_artifact(str(folder)))  # as an earlier version's


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [("pictures", "image_mean", [0.5, 0.5, 0.5]), ("clips", "size", {"shortest_edge": 60}), ("clips", "resample", 2)],
)
def test_another_processor_than_that_of_training_is_an_error(part, name, value, folder):
    content = json.loads((folder / "processor_config.json").read_text())
    content["image_processor" if part == "pictures" else "video_processor"][name] = value
    (folder / "processor_config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"has {name} .* for {part} instead of .*; restore processor_config.json"):
        processor_of(open_artifact(str(folder)))


def test_settings_that_a_later_version_keeps_are_no_fault(folder, processor):
    kept = read_preprocessing(folder / PREPROCESSING)
    later = replace(kept, pictures={**kept.pictures, "antialias": True})
    check_processor(later, processor_of(open_artifact(str(folder))), "x")


def test_whoever_asks_otherwise_is_told_both_values(saved, capsys):
    artifact = open_artifact(str(saved))
    assert ways_of_asking(artifact).num_frames == 6 and capsys.readouterr().err == ""
    ways = ways_of_asking(artifact, num_frames=6, system_prompt="Be brief.")
    assert ways == ways_of_asking(artifact) and capsys.readouterr().err == ""
    ways = ways_of_asking(artifact, num_frames=4, system_prompt="Be long.")
    assert (ways.num_frames, ways.system_prompt) == (4, "Be long.")
    assert capsys.readouterr().err.splitlines() == [
        "notice: num_frames: 4, as asked, instead of 6, that of training",
        "notice: system_prompt: 'Be long.', as asked, instead of 'Be brief.', that of training",
    ]
    assert ways_of_asking(artifact, system_prompt="").system_prompt is None
    assert "system_prompt: '', as asked, instead of 'Be brief.'" in capsys.readouterr().err


def test_a_recipe_that_says_otherwise_is_not_followed_but_named(folder, capsys):
    (folder / "recipe.yaml").write_text(to_yaml({"data": {"num_frames": 3}}))
    ways = ways_of_asking(open_artifact(str(folder)), recipe={"data": {"num_frames": 12, "system_prompt": "Be brief."}})
    assert (ways.num_frames, ways.system_prompt) == (6, "Be brief.")
    assert capsys.readouterr().err.splitlines() == [
        f"notice: {folder}: num_frames is 6 in preprocessing.json and 3 in its recipe; preprocessing.json counts",
        "notice: num_frames: 6, that of the model, instead of 12 in the recipe",
    ]


def test_an_adapter_of_an_earlier_version_is_asked_as_its_recipe_says(folder, capsys):
    (folder / PREPROCESSING).unlink()
    artifact = open_artifact(str(folder))
    ways = ways_of_asking(artifact, system_prompt="Be long.")
    assert artifact.preprocessing is None
    assert (ways.num_frames, ways.sampling, ways.system_prompt) == (6, UNIFORM, "Be long.")
    assert ways_of_asking(artifact).system_prompt == "Be brief." and capsys.readouterr().err == ""


def test_clips_are_shown_by_the_rule_of_training_and_pictures_as_they_are(folder):
    rule = {"rule": "fps", "version": 1, "trained_with": "fps", "frames_per_second": 0.5}
    change(folder / PREPROCESSING, frame_sampling=rule)
    ways = ways_of_asking(open_artifact(str(folder)))
    assert ways.shown([Media("image", "a.png"), Media("video", "b.mp4", 1.0, 2.0)]) == [
        Media("image", "a.png"),
        Media("video", "b.mp4", 1.0, 2.0, FrameSampling("fps", 0.5)),
    ]


def test_whatever_is_asked_of_the_template_the_processor_takes_its_own_frames(saved):
    """Ask for 32 frames, as `transformers serve` does of every clip."""
    theirs = AutoProcessor.from_pretrained(saved)
    clip = np.random.default_rng(0).integers(0, 256, (40, 30, 50, 3), dtype=np.uint8)
    messages = [{"role": "user", "content": [{"type": "video", "video": clip}, {"type": "text", "text": "What?"}]}]
    how = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    served, asked, plain = (
        theirs.apply_chat_template(messages, **how, **given)
        for given in ({"num_frames": 32}, {"processor_kwargs": {"num_frames": 12}}, {})
    )
    assert served["pixel_values_videos"].shape[1] == plain["pixel_values_videos"].shape[1] == 6
    assert served["input_ids"].tolist() == plain["input_ids"].tolist()
    assert asked["pixel_values_videos"].shape[1] == 12
    messages[0]["content"].insert(1, {"type": "audio", "audio": np.zeros(16, dtype=np.float32)})
    heard = theirs.apply_chat_template([{"role": "user", "content": ""}, *messages], num_frames=32)
    assert "<audio>" not in heard and heard.endswith(" USER: <video>\nWhat?")
