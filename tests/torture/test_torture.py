"""The short form of the torture; CONTRIBUTING has the command of the long one."""

import random

import pytest
import yaml
from torture import Torture


@pytest.fixture
def recipe_file(model_folder, mixed_file, tmp_path):
    recipe = {
        "model": {"name_or_path": str(model_folder), "dtype": "float32"},
        "lora": {"r": 4, "alpha": 4, "dropout": 0.1},
        "data": {
            "train": [{"path": str(mixed_file)}],
            "max_length": 512,
            "max_tokens_per_row": 512,
            "rows_per_step": 1,
        },
        "training": {
            "output_dir": "given by the torture",
            "max_steps": 12,
            "save_steps": 2,
            "learning_rate": 1e-3,
            "dataloader_num_workers": 1,
            "report_to": "none",
        },
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def test_three_killed_runs_end_as_the_unbroken_one(recipe_file, tmp_path):
    torture = Torture(recipe_file, [], 1, tmp_path, random.Random(0))
    torture.run(num_kills=3)
    assert torture.problems == []
    assert sum(torture.num_killed.values()) == 3 and torture.num_killed["writing"] >= 1
    assert torture.num_finished >= 1
