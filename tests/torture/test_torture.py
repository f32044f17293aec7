"""The short form of the torture; CONTRIBUTING has the command of the long one."""

import random

import pytest
from torture import Torture

from tests.short_run import write_recipe
from tests.warm import all_warm


@pytest.fixture
def recipe_file(shallow_folder, mixed_file, tmp_path):
    training = {"max_steps": 12, "save_steps": 2, "learning_rate": 1e-3, "dataloader_num_workers": 1}
    return write_recipe(tmp_path, shallow_folder, mixed_file, {"dropout": 0.1}, {}, training)


def test_three_killed_runs_end_as_the_unbroken_one(recipe_file, tmp_path):
    torture = Torture(recipe_file, [], 1, tmp_path, random.Random(0))
    with all_warm():
        torture.run(num_kills=3)
    assert torture.problems == []
    assert sum(torture.num_killed.values()) == 3 and torture.num_killed["writing"] >= 1
    assert torture.num_finished >= 1
