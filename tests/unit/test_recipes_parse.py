"""Every shipped recipe parses, says how it is launched, and has a schema that is current."""

import json
import re
import runpy
from pathlib import Path

import pytest
import transformers

from train.jobs.schema import schema_text
from train.recipe.load import load_recipe
from train.recipe.recipe import Recipe

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


def test_the_recipes_are_found():
    assert {"video_llava_7b_lora", "video_llava_7b_projector", "video_llava_7b_qlora"} <= {p.stem for p in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_parses_and_survives_writing(path, tmp_path):
    recipe = load_recipe(path)
    recipe.write(tmp_path / "recipe.yaml")
    assert load_recipe(tmp_path / "recipe.yaml") == recipe


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_transformers_accepts_the_training_section(path):
    arguments = load_recipe(path, ["training.use_cpu=true"]).training_arguments()
    assert arguments.gradient_accumulation_steps == 1  # the trainer derives it from data.rows_per_step


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_opens_with_schema_and_launch_line(path):
    schema, *comments = [line for line in path.read_text().splitlines()[:4] if line.startswith("# ")]
    assert schema == "# yaml-language-server: $schema=recipe.schema.json"
    launch = next(line for line in comments if line.startswith("# accelerate launch "))
    assert launch.endswith(f"train/sft.py recipes/{path.name}")
    for config in re.findall(r"--config_file (\S+)", launch):
        assert (ROOT / config).is_file()


def test_the_original_hyper_parameters():
    recipe = load_recipe(ROOT / "recipes/video_llava_7b_lora.yaml")
    assert (recipe.lora.r, recipe.lora.alpha, recipe.data.rows_per_step) == (128, 256, 128)
    assert (recipe.training["learning_rate"], recipe.model.projector_learning_rate) == (2e-4, 2e-5)
    assert recipe.training_arguments().get_warmup_steps(1000) == 30


def test_the_first_stage_trains_the_projector_alone():
    recipe = load_recipe(ROOT / "recipes/video_llava_7b_projector.yaml")
    assert recipe.lora is None and recipe.model.trainable == "projector"


PINNED = re.search(r"^transformers==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]


@pytest.mark.skipif(
    transformers.__version__ != PINNED, reason=f"the schema has the arguments of transformers {PINNED}, not of this one"
)
def test_schema_is_current():
    """When this fails: python scripts/write_schema.py"""
    written = (ROOT / "recipes/recipe.schema.json").read_text(encoding="utf-8")
    assert written == schema_text()
    assert json.loads(written) == Recipe.model_json_schema()
    script = runpy.run_path(str(ROOT / "scripts" / "write_schema.py"))
    assert script["ARGUMENTS"].read_text(encoding="utf-8") == script["arguments_text"]()
