"""The smallest model and data that can hang several processes."""

import json
from pathlib import Path

import deepspeed
import pytest

from tests.distributed.adversarial import NUM_FRAMES
from tests.tiny_data import WORDS, turns
from train.model.build import build_config, build_model, build_processor, train_tokenizer

RECORDS = [
    {"video": "clip0.mp4", "conversations": turns("<video>\nWhich way does it move?", "right")},
    {"image": "picture0.png", "conversations": turns("<image>\nDescribe the picture.", "a small square")},
    {"image": "picture1.png", "video": "clip1.mp4", "conversations": turns("<image>\n<video>\nHow?", "one moves")},
    {"conversations": turns("Hello, how are you?", "fine thanks")},
]


@pytest.fixture(autouse=True, scope="session")
def nothing_to_compile():
    """Ranks do without a reduction for inference that training never asks for: DeepSpeed compiles it for a minute, once
    for each version of torch."""
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


@pytest.fixture(scope="session")
def model_folder(shallow_folder) -> Path:
    return shallow_folder


@pytest.fixture(scope="session")
def smallest_folder(media_folder, tmp_path_factory) -> Path:
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
