"""Pushes to the hub send no file behind a link, no place on this machine, no key, and no code in the card."""

import ast
import json
import os
import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from data.errors import UserError
from tests.tiny_adapters import save_adapter
from train.card.cleaned import last_name, without_place, without_secrets
from train.card.facts import Facts
from train.card.model_card import write_card
from train.recipe.yaml_text import to_yaml
from train.results.hub import collect


@pytest.fixture
def run(model_folder, processor, tmp_path) -> Path:
    folder = save_adapter(model_folder, tmp_path / "run")
    processor.save_pretrained(folder)
    (folder / "recipe.yaml").write_text(to_yaml({"model": {"name_or_path": "owner/base"}}))
    return folder


@pytest.mark.parametrize(
    "name", ["adapter_model.safetensors", "tokenizer.json", "recipe.yaml", "config.json", "model-1-of-2.safetensors"]
)
def test_links_are_not_followed(name, run, tmp_path):
    (tmp_path / "secret").write_text("{}")
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match=f"{name} is a link, and links are not followed; put the file itself there"):
        collect(run, "me/my-model")
    (run / name).unlink()
    os.mkfifo(run / name)  # is no file, and not waited for
    if name in ("adapter_model.safetensors",):
        with pytest.raises(UserError, match="lacks adapter_model.safetensors"):
            collect(run, "me/my-model")
    else:
        assert name not in collect(run, "me/my-model") or name == "recipe.yaml"


PLACES = {
    "/home/me/clips/train.json": "train.json",
    "file:///home/me/clips/train.json": "train.json",
    "~/clips": "clips",
    "$HOME/clips": "clips",
    "%USERPROFILE%\\clips": "clips",
    "C:\\Users\\me\\train.json": "train.json",
    "\\\\server\\share\\train.json": "train.json",
    "../../me/train.json": "train.json",
    " /home/me/x": "x",
    "clips/train.json": "clips/train.json",
    "owner/base": "owner/base",
    "either/or": "either/or",
    "1/2": "1/2",
    "/": "/",
    "Q: why": "Q: why",
}


@pytest.mark.parametrize("text", PLACES)
def test_places_are_cut_to_their_last_name(text):
    assert last_name(text) == PLACES[text]


def test_places_and_keys_are_cut_wherever_they_stand(run):
    place = "/home/me/secret-project/file.bin"
    for name in ("tokenizer_config.json", "processor_config.json", "adapter_config.json"):
        content = json.loads((run / name).read_text())
        content |= {"merges_file": place, "name_or_path": place, "odd": {"a": [place, {"b": place}]}}
        (run / name).write_text(json.dumps(content))
    recipe = {
        "model": {"name_or_path": place},
        "data": {
            "train": [{"path": f"file://{place}"}, {"path": "https://me:pw@host.org/a.tar?sig=abc"}],
            "frame_cache": "$HOME/secret-project/frames",
            "system_prompt": "/home is where the heart is",
        },
        "training": {"run_name": "sk-" + "a" * 30, "logging_dir": place},
    }
    (run / "recipe.yaml").write_text(to_yaml(recipe))
    files = collect(run, "me/my-model")
    for name, content in files.items():
        text = content if isinstance(content, bytes) else content.read_bytes()
        for word in (b"secret-project", b"/home/me", b"sk-aaa", b"sig=", b"me:pw"):
            assert word not in text, (name, word)
    assert b"/home is where the heart is" in files["recipe.yaml"], "a prompt is what was trained with"


def test_tokens_that_look_like_paths_stay_tokens(run):
    content = json.loads((run / "tokenizer_config.json").read_text())
    content["added_tokens_decoder"] = {"5": {"content": "/usr/bin", "special": True}}
    (run / "tokenizer_config.json").write_text(json.dumps(content))
    sent = json.loads(collect(run, "me/my-model")["tokenizer_config.json"])
    assert sent["added_tokens_decoder"]["5"]["content"] == "/usr/bin" and sent["eos_token"] == "</s>"


@pytest.mark.parametrize("secret", ["hf_" + "a" * 20, "ghp_" + "a" * 30, "AKIA" + "A" * 16, "sk-" + "a" * 24])
def test_keys_of_known_services_are_removed(secret):
    assert without_secrets({"a": [f"x {secret} y"]}) == {"a": ["x (removed) y"]}
    assert without_place(f"https://user:{secret}@host/x?token={secret}") == "https://host/x"


EVIL_BASES = [
    'x")\nimport os; os.system("touch /tmp/ran")\n("',
    'a/b"); import os; os.system("true"); ("',
    "owner/base\n\n# A heading\n",
    '/home/me/x"); import os; ("',
    "owner/[click](http://evil.org)",
    "`rm`/x",
    "owner/base/../../x",
    "<script>/x",
]


@pytest.mark.parametrize("base", EVIL_BASES)
def test_a_base_that_is_no_hub_id_reaches_no_code_of_the_card(base, run):
    settings = json.loads((run / "adapter_config.json").read_text())
    (run / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": base}))
    card = ModelCard(collect(run, "me/my-model")["README.md"].decode())
    check_card(card)
    assert card.data.base_model is None and '"path/to/the/base"' in card.text


def check_card(card: ModelCard) -> None:
    """Check that the card's code is what we write, and that nothing of a stranger's became Markdown or HTML."""
    (code,) = re.findall(r"```python\n(.*?)\n```", card.text, re.DOTALL)
    calls = {ast.unparse(node.func) for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)}
    assert not any("os." in call or "system" in call for call in calls)
    outside = re.sub(r"(`{3,})\w*\n.*?\n\1", "", card.text, flags=re.DOTALL)
    assert "<script" not in outside and "](" not in outside and outside.count("\n# ") <= 1
    assert [line for line in outside.splitlines() if line.startswith("#")] == ["# my-model", "## Use", "## Training"]


def test_no_text_of_a_recipe_or_version_leaves_its_place_in_the_card():
    evil = "x\n```\n````\n# A heading\n<script>alert(1)</script> [click](http://evil.org)"
    recipe = {"data": {"system_prompt": evil, "train": [{"path": evil}, {"path": "a/[b](http://evil.org).json"}]}}
    text = write_card("me/my-model", Facts(True, evil, recipe, {"peft": evil}))
    check_card(ModelCard(text))
