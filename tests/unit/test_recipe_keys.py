"""Facts about keys that are declared with the key, and the lists that follow from them."""

import json
import runpy
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import BaseModel, TypeAdapter

from train.recipe import training_keys
from train.recipe.derived_keys import describe_arguments
from train.recipe.identity import HARMLESS, HARMLESS_DATA, HARMLESS_TRAINING
from train.recipe.keys import Harmless, harmless_keys, plain_keys, sections
from train.recipe.load import KNOWN_KEYS
from train.recipe.training_keys import SET_ELSEWHERE, type_of

ROOT = Path(__file__).parents[2]


class Inner(BaseModel):
    size: int = 1


class Outer(BaseModel):
    inner: Inner | None = None
    many: list[Inner] = []
    plain: int | None = None


def test_sections_are_found_in_unions_and_lists():
    assert list(sections(Outer)) == [("", Outer), ("inner", Inner), ("many", Inner)]
    assert plain_keys(Outer) == ["plain"]


def test_the_mark_is_found_in_any_part_of_a_type():
    hints = {"a": int, "b": Annotated[int | None, Harmless()], "c": Annotated[str, Harmless()] | None}
    assert harmless_keys(hints) == {"b", "c"}


def test_what_may_change_between_a_run_and_its_continuation():
    assert HARMLESS == {"memory", "resume"}
    assert HARMLESS_DATA == {
        *("train", "eval", "frame_cache", "frame_cache_gib", "feature_cache", "media_cache", "max_download_mib"),
        *("media_hosts", "max_new_tokens"),
        *("download_seconds", "on_bad_media", "max_bad_media", "decode_seconds"),
    }
    assert {
        "eval_on_start",
        "output_dir",
        "report_to",
        "save_steps",
        "logging_steps",
        "hub_model_id",
        "ddp_timeout",
    } < HARMLESS_TRAINING
    assert HARMLESS_TRAINING.isdisjoint({"learning_rate", "seed", "max_steps", "eval_steps", "optim", "weight_decay"})


def test_the_table_of_keys_has_all_of_them():
    script = runpy.run_path(str(ROOT / "scripts" / "write_recipe_table.py"))
    told = {key for key, *_ in script["recipe_lines"]()}
    places = {section: f"{section}{'[]' if section == 'data.train' else ''}." for section in KNOWN_KEYS}
    expected = {
        f"{places[section]}{key}".removeprefix(".")
        for section, keys in KNOWN_KEYS.items()
        for key in keys
        if section not in ("data.eval", "training") and key not in KNOWN_KEYS
    }
    more = {"metric", "max_questions", "name"}
    assert told == {*expected, "data.eval[]", *(f"data.eval[].{key}" for key in more)}
    assert set(KNOWN_KEYS["data.eval"]) == {*KNOWN_KEYS["data.train"], *more}


@pytest.mark.parametrize("name", describe_arguments(SET_ELSEWHERE))
def test_arguments_have_the_type_that_their_schema_says(name):
    schema = describe_arguments(SET_ELSEWHERE)[name]
    assert TypeAdapter(type_of(schema)).json_schema() == {key: schema[key] for key in schema if key != "description"}


def test_another_version_of_transformers_has_its_own_arguments(tmp_path, monkeypatch):
    kept = {"transformers": "4.0.0", "arguments": {"an_old_one": {"type": "integer", "description": ""}}}
    (tmp_path / "kept.json").write_text(json.dumps(kept))
    monkeypatch.setattr(training_keys, "KEPT", tmp_path / "kept.json")
    assert training_keys._arguments() == describe_arguments(SET_ELSEWHERE)
