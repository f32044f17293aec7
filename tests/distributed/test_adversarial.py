"""Nothing hangs when ranks see different kinds of media, and the losses are those of one process."""

import json
from pathlib import Path

import pytest

from tests.distributed.adversarial import NUM_EPOCHS, NUM_FRAMES, STEPS, train
from tests.launching import launch
from tests.tiny_data import WORDS, turns
from train.build import build_config, build_model, build_processor, train_tokenizer

RECORDS = [
    {"video": "clip0.mp4", "conversations": turns("<video>\nWhich way does it move?", "right")},
    {"image": "picture0.png", "conversations": turns("<image>\nDescribe the picture.", "a small square")},
    {"image": "picture1.png", "video": "clip1.mp4", "conversations": turns("<image>\n<video>\nHow?", "one moves")},
    {"conversations": turns("Hello, how are you?", "fine thanks")},
]


@pytest.fixture(scope="module")
def folder(media_folder, tmp_path_factory) -> Path:
    """The smallest model that has all parts: a layer of the decoder, two of a tower, four patches a picture."""
    folder = tmp_path_factory.mktemp("adversarial")
    processor = build_processor(train_tokenizer([WORDS] * 3), image_size=28)
    config = build_config("tiny", processor.tokenizer, NUM_FRAMES)
    for part, layers in ((config.text_config, 1), (config.vision_config, 2)):
        part.update({"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": layers})
    config.vision_config.image_size = 28
    config.image_seq_length, config.video_seq_length = 4, 5 * NUM_FRAMES
    build_model(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    for file in media_folder.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "train.json").write_text(json.dumps(RECORDS))
    return folder


@pytest.fixture(scope="module")
def of_one_process(folder) -> list[float]:
    train(folder, folder / "one")
    return losses(folder / "one")


def losses(out_dir: Path) -> list[float]:
    lines = [json.loads(line) for line in (out_dir / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("config", ["cpu_2", "zero2", "zero3"])
def test_no_rank_waits_for_another(config, folder, of_one_process, tmp_path):
    launch(config, "tests/distributed/adversarial.py", folder, tmp_path / "two", folder=tmp_path)
    ours = losses(tmp_path / "two")
    assert len(ours) == NUM_EPOCHS * (len(STEPS) + 1) == 200
    assert ours == pytest.approx(of_one_process, abs=1e-4)
    assert sum(ours[-16:]) < sum(ours[:16])  # four epochs, in which every kind is the last once
