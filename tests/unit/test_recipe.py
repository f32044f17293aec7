"""Recipes and command lines, read and written."""

import re
from dataclasses import fields

import pytest
from transformers import TrainingArguments

from data.errors import UserError
from train.recipe.evaluated import names_of
from train.recipe.load import KNOWN_KEYS, load_recipe
from train.recipe.training_keys import DEFAULTS, SET_ELSEWHERE
from train.recipe.yaml_text import parse_override, set_override

# What is read


def test_defaults_of_a_minimal_recipe(minimal):
    assert load_recipe(minimal).dump() == {
        "model": {
            "name_or_path": "some/model",
            "revision": None,
            "dtype": "bfloat16",
            "attn_implementation": "auto",
            "quantization": None,
            "double_quantization": True,
            "trainable": None,
            "add_tokens": [],
            "projector_learning_rate": None,
        },
        "lora": {
            "start_from": None,
            "start_revision": None,
            "r": 128,
            "alpha": 256,
            "dropout": 0.05,
            "target": "decoder",
            "modules_to_save": [],
            "use_dora": False,
            "use_rslora": False,
            "init_lora_weights": True,
            "bias": "none",
        },
        "data": {
            "train": [
                {
                    "path": "train.json",
                    "revision": None,
                    "split": None,
                    "files": None,
                    "media_root": None,
                    "outside_media_root": False,
                    "columns": {},
                    "tags": {},
                    "weight": 1.0,
                }
            ],
            "eval": [],
            "max_new_tokens": 128,
            "system_prompt": None,
            "turns": "as_they_come",
            "num_frames": 8,
            "frame_sampling": "uniform",
            "frames_per_second": None,
            "frame_cache": None,
            "frame_cache_gib": None,
            "feature_cache": None,
            "max_length": 4096,
            "packing": "shared_prefix",
            "max_tokens_per_row": 8192,
            "max_questions_per_clip": 32,
            "rows_per_step": 16,
            "streaming": False,
            "stream_window": 4096,
            "media_cache": None,
            "max_download_mib": 1024.0,
            "media_hosts": None,
            "download_seconds": 120.0,
            "on_bad_media": "skip",
            "max_bad_media": 0.01,
            "decode_seconds": 60.0,
        },
        "resume": "auto",
        "on_nonfinite": "stop",
        "max_skipped_steps": 10,
        "memory": None,
        "early_stopping_patience": None,
        "training": {**DEFAULTS, "output_dir": "outputs/run"},
    }


def test_evaluations_begin_before_the_first_step_where_they_ask(minimal):
    asks = "data.eval=[{path: a/val.jsonl, metric: auto}]"
    assert load_recipe(minimal, [asks]).training["eval_on_start"] is True
    assert load_recipe(minimal, [asks, "training.eval_on_start=false"]).training["eval_on_start"] is False
    assert "eval_on_start" not in load_recipe(minimal, ["data.eval=[{path: a/val.jsonl}]"]).training
    assert load_recipe(minimal, [asks]).training_arguments().eval_on_start is True


def test_sources_to_evaluate_on_have_names_of_their_own():
    files = [
        "a/val.json",
        "b/val.jsonl",
        "https://me:key@host/a b.tar?key=KEY",
        "owner/name-1.5",
        "d/*.tar",
        "c/val.json",
    ]
    sources = [{"path": file} for file in files]
    assert names_of(sources) == ["val", "val-2", "a-b", "name-1.5", "data", "val-3"]
    sources[5]["name"] = "val"  # a name that is given is kept
    sources[0]["name"] = "my own"
    assert names_of(sources) == ["my own", "val-2", "a-b", "name-1.5", "data", "val"]


def test_lora_null_is_full_fine_tuning(minimal):
    recipe = load_recipe(minimal, ["lora=", "model.trainable=projector"])
    assert recipe.lora is None and recipe.model.trainable == "projector"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 2e-4),  # text in YAML 1.1
        ("1.5E+3", 1500.0),
        (".5", 0.5),
        ("-3", -3),
        ("no", "no"),  # false in YAML 1.1
        ("on", "on"),
        ("010", 10.0),  # eight in YAML 1.1
        ("12:30", "12:30"),  # 750 in YAML 1.1
        ("2026-01-01", "2026-01-01"),  # a date in YAML 1.1
        ("true", True),
        ("'true'", "true"),
        ("", None),
        ("null", None),
        ("[a, 1, {b: 2e0}]", ["a", 1, {"b": 2.0}]),
        ("a=b", "a=b"),
    ],
)
def test_scalars_are_yaml_1_2(text, value):
    keys, parsed = parse_override(f"training.x={text}")
    assert keys == ("training", "x")
    assert parsed == value and type(parsed) is type(value)


def test_training_values(minimal):
    recipe = load_recipe(
        minimal,
        [
            "training.learning_rate=2e-4",
            "training.eval_strategy=no",
            "training.save_steps=0.5",
            "training.seed=7",
        ],
    )
    training = {"learning_rate": 2e-4, "eval_strategy": "no", "save_steps": 0.5, "seed": 7}
    assert recipe.training == {**DEFAULTS, "output_dir": "outputs/run", **training}


def test_training_arguments(minimal):
    recipe = load_recipe(minimal, ["training.use_cpu=true", "training.lr_scheduler_type=cosine"])
    arguments = recipe.training_arguments()
    assert isinstance(arguments, TrainingArguments)
    assert (arguments.output_dir, arguments.lr_scheduler_type.value) == ("outputs/run", "cosine")
    assert arguments.remove_unused_columns is False
    assert arguments.report_to == ["tensorboard"]


def test_every_training_argument_is_a_key_or_set_elsewhere():
    names = {field.name for field in fields(TrainingArguments)}
    assert set(KNOWN_KEYS["training"]) | set(SET_ELSEWHERE) == names
    assert set(KNOWN_KEYS["training"]).isdisjoint(SET_ELSEWHERE)
    assert set(DEFAULTS) < names


def test_relative_paths_stay_as_written(minimal):
    recipe = load_recipe(minimal, ["data.train=[{path: ../a.json, media_root: clips/}]"])
    assert (recipe.data.train[0].path, recipe.data.train[0].media_root) == ("../a.json", "clips/")


# Overrides and writing


def test_overrides_reach_nested_keys_and_the_last_wins(minimal):
    recipe = load_recipe(
        minimal,
        [
            "lora.r=4",
            "lora.r=8",
            "training.lr_scheduler_kwargs.num_cycles=2",
            "data.train=[{path: a.json}, {path: b.json}]",
            "resume=never",
        ],
    )
    assert recipe.lora.r == 8 and recipe.resume == "never"
    assert recipe.training["lr_scheduler_kwargs"] == {"num_cycles": 2}
    assert [entry.path for entry in recipe.data.train] == ["a.json", "b.json"]


def test_override_of_a_null_section_creates_it():
    recipe = {"lora": None}
    set_override(recipe, ("lora", "r"), 8)
    assert recipe == {"lora": {"r": 8}}


def test_write_and_load_gives_the_same_recipe(minimal, tmp_path):
    recipe = load_recipe(minimal, ["training.learning_rate=1e-5", "model.revision='2e4'", "data.system_prompt='no'"])
    recipe.write(tmp_path / "written.yaml")
    assert load_recipe(tmp_path / "written.yaml") == recipe


def test_keys_in_addresses_are_not_written(minimal, tmp_path):
    recipe = load_recipe(minimal, ["data.eval=[{path: 'https://me:SECRET@example.com/a.tar?key=SECRET'}]"])
    assert recipe.data.sources(recipe.data.eval)[0].path.endswith("?key=SECRET")
    recipe.write(tmp_path / "written.yaml")
    assert load_recipe(tmp_path / "written.yaml").data.eval[0].path == "https://example.com/a.tar"
    assert "SECRET" not in str(recipe.dump())


def test_entries_of_lists_are_overridden_and_added():
    recipe = {"data": {"train": [{"path": "a", "media_root": ["x", "y"]}, {"path": "b"}], "eval": None}}
    for text in (
        *("data.train[0].path=c", "data.train[1].weight=2", "data.train[2].path=d", "data.eval[0].path=e"),
        *("data.train[0].media_root[1]=z", "lora.modules_to_save[0]=multi_modal_projector"),
    ):
        set_override(recipe, *parse_override(text))
    assert recipe == {
        "data": {
            "train": [{"path": "c", "media_root": ["x", "z"]}, {"path": "b", "weight": 2}, {"path": "d"}],
            "eval": [{"path": "e"}],
        },
        "lora": {"modules_to_save": ["multi_modal_projector"]},
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data.train[2].path=c", "data.train[2]: the next entry would be data.train[1]"),
        ("data.num_frames[0]=c", "data.num_frames has no numbered entries; write data.num_frames=value"),
        ("data.train.path=c", "data.train has no keys; write data.train=value"),
        ("data[0]=c", "data has no numbered entries"),
        *(
            (text, "write section.key=value")
            for text in ("[0]=c", "data.train[x]=c", "data.train[0=c", "data.train[-1]=c")
        ),
    ],
)
def test_entries_that_a_list_cannot_have(text, said):
    with pytest.raises(UserError, match=re.escape(said)):
        set_override({"data": {"train": [{"path": "a"}], "num_frames": 8}}, *parse_override(text))


def test_a_tilde_is_the_home_folder_in_every_path(minimal, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").mkdir()
    paths = ["model.name_or_path", "lora.start_from", "data.train[0].path", "data.train[0].media_root"]
    paths += ["data.frame_cache", "data.feature_cache", "data.media_cache", "resume", "training.output_dir"]
    recipe = load_recipe(minimal, [f"{path}=~/run" for path in paths]).dump()
    for path in paths:
        value = recipe
        for key in re.findall(r"\w+", path):
            value = value[int(key) if key.isdigit() else key]
        assert value == f"{tmp_path}/run", path
    several = load_recipe(minimal, ["data.train[0].media_root=[~/a, b]", "data.system_prompt=~/run"])
    assert several.data.train[0].media_root == [f"{tmp_path}/a", "b"] and several.data.system_prompt == "~/run"
    assert several.training_arguments().output_dir == several.training["output_dir"]
