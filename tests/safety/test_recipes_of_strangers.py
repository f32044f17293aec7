"""A recipe that lies beside a stranger's model is read as a recipe: what it may not be is one line, and soon."""

import os
import time
from pathlib import Path

import pytest

from data.errors import UserError
from tests.tiny_adapters import save_adapter
from train.recipe.load import read_kept_recipe
from train.recipe.yaml_text import MAX_BYTES
from train.results.artifact import open_artifact
from train.results.hub import collect

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)
MERGES = "a: &a {k: 1}\n" + "".join(
    f"{name}: &{name} {{!!merge m: [{', '.join([f'*{before}'] * 9)}]}}\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)
WRONG = {
    "data: 5": "data: must be a mapping of keys, got 5",
    "data: [1]": "data: must be a mapping of keys",
    "training: hi": "training: must be a mapping of keys",
    "[1, 2]": "a recipe is a mapping of sections, not a list",
    "": "the recipe is empty",
    'data: {num_frames: "8"}': 'data.num_frames: must be a whole number, got "8"',
    "data: {num_frames: 1000000000}": "data.num_frames: must be less than or equal to 1024, got 1000000000",
    "data: {num_frames: 0}": "data.num_frames: must be greater than or equal to 1",
    "data: {num_frames: true}": "data.num_frames: must be a whole number",
    "data: {num_frames: 8.5}": "data.num_frames: must be a whole number",
    "data: {system_prompt: [a]}": "data.system_prompt: must be text",
    "data: {train: [{path: 5}]}": "data.train[0].path: must be text",
    "data: {train: x.json}": "data.train: must be a list",
    "model: {dtype: nn}": "model.dtype: must be",
    "model: {quantization: evil}": "model.quantization: must be",
    "model: {name_or_path: {a: 1}}": "model.name_or_path: must be text",
    f"data: {{num_frames: {'9' * 5000}}}": "not valid YAML: Exceeds the limit",
    "data: {num_frames: !!float x}": "not valid YAML: could not convert string to float",
    "data: {num_frames: !!bool x}": "not valid YAML: 'x'",
    "data: {num_frames: !!timestamp x}": "not valid YAML: ",
    "data: !!python/object/apply:os.system [true]": "not valid YAML: could not determine a constructor",
    "data: &a {x: *a}": "not valid YAML: found unconstructable recursive node",
    "[" * 20_000: "nested too deeply",
    BOMB: "its aliases make more than 16,384 values of it",
    MERGES: "not valid YAML: keys cannot be merged",
    "x: " + "y" * MAX_BYTES: "no recipe has more than 262,144 bytes",
    "a: \x00": "not valid YAML: ",
}


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_a_recipe_that_is_none_is_one_line_and_soon(text, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    started = time.process_time()
    with pytest.raises(UserError) as caught:
        read_kept_recipe(file)
    message = str(caught.value)
    assert WRONG[text] in message and str(file) in message and "\n" not in message and len(message) < 500
    assert time.process_time() - started < 10  # 90 seconds and more in which memory grew


def test_a_recipe_of_another_version_or_of_a_part_is_taken(tmp_path):
    (tmp_path / "recipe.yaml").write_text("model: {dtype: float16, later: 1}\nnewer: {a: b}\ndata: {num_frames: 4}\n")
    assert read_kept_recipe(tmp_path / "recipe.yaml")["data"] == {"num_frames": 4}


def test_every_door_reads_it_so(model_folder, processor, tmp_path):
    adapter = save_adapter(model_folder, tmp_path / "adapter")
    processor.save_pretrained(adapter)
    (adapter / "recipe.yaml").write_text("data: {num_frames: 1000000000}")
    for attempt in (lambda: open_artifact(str(adapter)), lambda: collect(adapter, "me/my-model")):
        with pytest.raises(UserError, match=r"recipe\.yaml: data\.num_frames: must be less than or equal to 1024"):
            attempt()


def test_a_pipe_in_its_place_is_not_waited_for(model_folder, processor, tmp_path):
    adapter = save_adapter(model_folder, tmp_path / "adapter")
    processor.save_pretrained(adapter)
    os.mkfifo(adapter / "recipe.yaml")
    assert open_artifact(str(adapter)).recipe == {}
    assert "No recipe was saved with it." in collect(Path(adapter), "me/my-model")["README.md"].decode()
