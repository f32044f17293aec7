"""A conversation that is longer than the decoder was made for is said at the start."""

import json

import pytest

from data.processor import max_positions
from data.progress.log import heard
from tests.tiny_data import turns
from train.loop.rows import RowReader
from train.recipe.recipe import Data, Dataset


def test_the_decoder_s_limit_is_the_config_s(model_folder):
    wanted = json.loads((model_folder / "config.json").read_text())["text_config"]["max_position_embeddings"]
    assert max_positions(str(model_folder)) == wanted == 4096


@pytest.mark.parametrize("packing", ["shared_prefix", "none"])
def test_what_is_beyond_the_decoder_is_warned_of(packing, processor, visual_tokens, media_folder, tmp_path):
    records = [
        {"id": name, "video": "clip0.mp4", "conversations": turns("<video>\nWhat?", answer)}
        for name, answer in {"short": "red", "long": "red " * 40}.items()
    ]
    (tmp_path / "train.json").write_text(json.dumps(records))
    source = Dataset(path=str(tmp_path / "train.json"), media_root=str(media_folder))
    data = Data(train=[source], packing=packing, max_length=2000)
    for limit, is_warned in {160: True, 4096: False, None: False}.items():
        with heard("train.loop.rows") as said:
            RowReader(data, processor.tokenizer, visual_tokens, 0, limit).train_rows()
        warnings = [line for line in said if line.startswith("warning: ")]
        assert len(warnings) == is_warned
        assert all(" long " in line or "record 2" in line for line in warnings)
        assert all(f"max_position_embeddings {limit}" in line for line in warnings)
