"""The demo's scenes: what is drawn is what is asked about, in real files, by seed."""

import json
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from data.decoding.video import read_frames
from data.sources.conversation import read_conversations
from data.sources.source import Source
from scripts.demo.dataset import Size, make_data
from scripts.demo.questions import CLIP_SKILLS, NEW_SKILL, PICTURE_SKILLS, make_records
from scripts.demo.scenes import (
    COLOURS,
    DIRECTIONS,
    EDGE,
    SHAPES,
    Scene,
    draw_frame,
    film,
    photograph,
    random_scene,
)

SCENE = Scene(
    shape="square",
    colour="red",
    direction="right",
    radius=0.2,
    start=(0.25, 0.7),
    travel=0.5,
    num_frames=12,
    texture_seed=0,
    contrast=0.0,
)
BLACK = Image.new("RGB", (EDGE, EDGE))


def centre_of(pixels: np.ndarray, colour: tuple[int, int, int]) -> tuple[float, float]:
    """Return (x, y) of the middle of what has about this colour, as shares of the edge."""
    near = np.abs(pixels.astype(int) - colour).sum(axis=-1) < 90
    rows, columns = np.nonzero(near)
    return (columns.min() + columns.max() + 1) / 2 / EDGE, (rows.min() + rows.max() + 1) / 2 / EDGE


def test_answers_of_a_known_scene():
    skills = CLIP_SKILLS | NEW_SKILL
    answers = {name: answer(SCENE) for name, (_, answer) in skills.items()}
    assert answers == {
        "colour": "red",
        "shape": "square",
        "first": "bottom left",
        "last": "bottom right",
        "direction": "right",
    }
    assert PICTURE_SKILLS["place"][1](replace(SCENE, start=(0.8, 0.2))) == "top right"


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_film_shows_the_motion_that_it_is_named_after(direction, tmp_path):
    start = {"left": (0.75, 0.3), "right": (0.25, 0.3), "up": (0.3, 0.75), "down": (0.3, 0.25)}[direction]
    scene = replace(SCENE, direction=direction, start=start)
    film(scene, tmp_path / "clip.mp4")
    frames = read_frames(tmp_path / "clip.mp4", scene.num_frames)
    places = np.array([centre_of(frame, COLOURS["red"]) for frame in frames])
    steps = np.diff(places, axis=0)  # (frames - 1, 2)
    wanted = np.array(DIRECTIONS[direction]) * scene.travel / (scene.num_frames - 1)
    assert np.allclose(places[0], start, atol=1.5 / EDGE)
    assert np.allclose(steps, wanted, atol=2 / EDGE)


def test_film_is_h264_of_the_promised_length(tmp_path):
    film(SCENE, tmp_path / "clip.mp4")
    with av.open(str(tmp_path / "clip.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.frames) == ("h264", SCENE.num_frames)
        assert (stream.width, stream.height) == (EDGE, EDGE)


def test_photograph_is_the_first_moment(tmp_path):
    photograph(SCENE, tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.mode == "RGB"
        assert centre_of(np.asarray(picture), COLOURS["red"]) == pytest.approx(SCENE.start, abs=1 / EDGE)


def test_shapes_differ_in_outline():
    drawn = {shape: np.asarray(draw_frame(replace(SCENE, shape=shape), BLACK, 0.0)).any(axis=-1) for shape in SHAPES}
    square, triangle, cross = (drawn[shape] for shape in ("square", "triangle", "cross"))
    x, y = (round(EDGE * value) for value in SCENE.start)
    corner = round(0.7 * EDGE * SCENE.radius)
    assert square[y, x] and triangle[y, x] and cross[y, x]
    assert square[y - corner, x - corner] and not triangle[y - corner, x - corner] and not cross[y - corner, x - corner]
    assert cross[y + corner, x] and not triangle[y + corner, x]
    assert triangle[y - corner, x] and cross[y - corner, x]


def test_random_scenes_stay_inside_and_cross_a_middle_line():
    random = np.random.default_rng(3)
    scenes = [random_scene(random) for _ in range(300)]
    for scene in scenes:
        for progress in (0, 0.5, 1):
            assert all(scene.radius <= value <= 1 - scene.radius for value in scene.centre(progress))
        # The last of eight uniform frames lies an eighth before the end; the answer must hold there already.
        last_seen = (7 * scene.num_frames // 8) / (scene.num_frames - 1)
        assert scene.place(0) != scene.place(1) == scene.place(last_seen)
    for values, drawn in [(SHAPES, "shape"), (COLOURS, "colour"), (DIRECTIONS, "direction")]:
        assert {getattr(scene, drawn) for scene in scenes} == set(values)


def test_records_are_llava_conversations(tmp_path):
    scene = replace(SCENE, colour="purple")
    records = make_records(scene, "video", "clips/0001.mp4", CLIP_SKILLS | NEW_SKILL)
    assert records[0] == {
        "id": "clips/0001-colour",
        "video": "clips/0001.mp4",
        "conversations": [
            {"from": "human", "value": "<video>\nWhat colour is the shape?"},
            {"from": "gpt", "value": "purple"},
        ],
        "accept": ["purple", "violet"],
    }
    (tmp_path / "data.json").write_text(json.dumps(records))
    conversations = list(read_conversations(Source(tmp_path / "data.json")))
    assert [conversation.messages[1]["content"][0]["text"] for conversation in conversations] == [
        "purple",
        "square",
        "bottom left",
        "bottom right",
        "right",
    ]
    assert {media.path for conversation in conversations for media in conversation.media} == {
        str(tmp_path / "clips/0001.mp4")
    }


FEW = {"train": Size(3, 3), "held_out": Size(2, 2)}


def test_data_are_a_function_of_the_seed(tmp_path):
    for folder, seed in {"a": 5, "b": 5, "c": 6}.items():
        make_data(tmp_path / folder, seed, FEW)
    contents = {
        folder: {path.relative_to(tmp_path / folder): path.read_bytes() for path in (tmp_path / folder).rglob("*.*")}
        for folder in "abc"
    }
    assert len(contents["a"]) == 2 * (3 + 2) + 4
    assert contents["a"] == contents["b"]
    assert contents["a"].keys() == contents["c"].keys() and contents["a"] != contents["c"]


def test_held_out_clips_are_not_in_training(tmp_path):
    make_data(tmp_path, 0, FEW)
    media = {
        name: {media for each in read_conversations(Source(tmp_path / f"{name}.json")) for media in each.media}
        for name in ("easy", "train", "held_out_easy", "held_out_new")
    }
    assert media["train"] == media["easy"]
    assert media["held_out_new"] == {item for item in media["held_out_easy"] if item.kind == "video"}
    seen = {Path(item.path).read_bytes() for item in media["train"]}
    unseen = {Path(item.path).read_bytes() for item in media["held_out_easy"]}
    assert len(seen) == 6 and len(unseen) == 4 and not seen & unseen


def test_the_base_is_not_taught_the_new_skill(tmp_path):
    make_data(tmp_path, 0, FEW)
    (question, _) = NEW_SKILL["direction"]
    counts = {
        name: (tmp_path / f"{name}.json").read_text().count(question)
        for name in ("easy", "train", "held_out_easy", "held_out_new")
    }
    assert counts == {"easy": 0, "train": 3, "held_out_easy": 0, "held_out_new": 2}
