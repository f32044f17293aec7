"""What README.md and CONTRIBUTING.md say is so: each command runs or is checked, files and tests they name exist."""

import ast
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from PIL import Image

from data.media.locate import Locator
from data.packing.layout import dense_mask
from data.sources.conversation import parse_record, read_conversations
from data.sources.source import Source
from train.recipe.load import load_recipe
from train.recipe.recipe import Dataset
from train.recipe.yaml_text import read_recipe

ROOT = Path(__file__).parents[2]
README, CONTRIBUTING = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md"))
DOCUMENTS = README + "\n" + CONTRIBUTING
LINKED = ("train", "data", "scripts", "recipes", "accelerate_configs", "tests")


def commands(document: str) -> list[str]:
    """Every command in the ```bash blocks, continued lines joined, comments dropped."""
    blocks = re.findall(r"^```bash\n(.*?)^```", document, re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [" ".join(line.partition("  #")[0].split()) for line in lines if line.strip()]


def files(document: str) -> dict[str, str]:
    """The example files: a name in backquotes on a line of its own, and the ```json or ```yaml block behind it."""
    return dict(re.findall(r"^`([\w./]+)`\n\n```(?:json|yaml)\n(.*?)^```", document, re.DOTALL | re.MULTILINE))


def test_the_parsers_of_this_test():
    text = "```bash\na b  # c\n\nd \\\n    e\n```\n`x/y.json`\n\n```json\n{}\n```\n```yaml\nz: 1\n```\n"
    assert commands(text) == ["a b", "d e"]
    assert files(text) == {"x/y.json": "{}\n"}


# The walk through one's own data, run as it is written


@pytest.fixture(scope="module")
def checkout(media_folder, tmp_path_factory) -> Path:
    """A folder that looks like the checkout, with the README's example files and media of the names in them."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
    for name, text in files(README).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    recipe = load_recipe(folder / "my_recipe.yaml")
    for source in (*recipe.data.train, *recipe.data.eval):
        (folder / source.media_root).mkdir(exist_ok=True)
        for conversation in read_conversations(Source(folder / source.path, media_root=folder / source.media_root)):
            for media in conversation.media:
                if media.kind == "video":
                    shutil.copy(media_folder / "clip0.mp4", media.path)
                else:
                    Image.open(media_folder / "picture0.png").save(media.path)
    return folder


def run(command: str, folder: Path) -> subprocess.CompletedProcess:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HOME": str(folder / "hf"),  # away from an accelerate config of this machine's user
    }
    return subprocess.run(shlex.split(command), cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture
def run_script(checkout, monkeypatch, capsys) -> Callable[[str], str]:
    """Runs `python scripts/X.py ...` in this process, where torch is imported already; returns what it prints."""

    def run_here(command: str) -> str:
        python, script, *arguments = shlex.split(command)
        assert python == "python"
        monkeypatch.chdir(checkout)
        monkeypatch.syspath_prepend(str(ROOT / "scripts"))
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        capsys.readouterr()
        runpy.run_path(script, run_name="__main__")
        return capsys.readouterr().out

    return run_here


def is_walk(command: str) -> bool:
    return bool(
        re.match(
            r"python scripts/(new_model|check_data|preview|generate|evaluate|merge_adapter|push_to_hub)\.py ", command
        )
    ) or (command.startswith("accelerate launch") and "my_recipe.yaml" in command)


def test_own_data_from_the_first_record_to_the_hub(checkout, run_script):
    printed = {}
    for command in filter(is_walk, commands(README)):
        name = re.search(r"/(\w+)\.py", command)[1]
        if name != "sft":
            printed[name] = run_script(command)
            continue
        if "name_or_path" not in command:
            command += " model.name_or_path=outputs/tiny"  # the 7B weights are not here
        result = run(command, checkout)
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        printed[name] = result.stdout
    assert list(printed) == [
        "new_model",
        "sft",
        "check_data",
        "preview",
        "generate",
        "evaluate",
        "merge_adapter",
        "push_to_hub",
    ]
    assert "3 conversations in 1 rows" in printed["sft"] and "trained: " in printed["sft"]
    assert printed["generate"].endswith("\n") and " of 1 answers correct" in printed["evaluate"]
    assert "model.safetensors" in printed["push_to_hub"]

    outputs = checkout / "outputs"
    assert json.loads((outputs / "data.json").read_text())["problems"] == []
    assert (outputs / "preview.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    for name in ("adapter_model.safetensors", "tokenizer_config.json", "recipe.yaml", "metrics.jsonl"):
        assert (outputs / "my-run" / name).is_file()
    assert list((outputs / "my-run").glob("checkpoint-*")) and list((outputs / "my-run").rglob("events.out.tfevents*"))
    assert json.loads((outputs / "scores.json").read_text())["questions"] == 1
    assert json.loads((outputs / "predictions.jsonl").read_text())["question"] == "What colour is the bus?"
    assert (outputs / "my-model" / "model.safetensors").is_file()


def test_a_million_parameters_is_what_the_tiny_model_has(checkout, model):
    millions = float(re.search(r"random model of ([\d.]+) million parameters", README)[1])
    assert model.num_parameters() / 1e6 == pytest.approx(millions, abs=0.05)


def test_quiet_launch_shows_the_error_alone(checkout):
    result = run("accelerate launch -q --config_file accelerate_configs/cpu.yaml train/sft.py no-such.yaml", checkout)
    assert (result.returncode, result.stderr) == (1, "error: no-such.yaml: no such recipe file; check the path\n")


# Every other command, by rules


def check_make(command: str, checkout: Path) -> None:
    result = run(f"make -n -B {command.removeprefix('make')}", ROOT)
    assert result.returncode == 0, result.stderr
    for script in re.findall(r"scripts/\w+\.py", result.stdout):
        assert (ROOT / script).is_file(), script


def check_activate(command: str, checkout: Path) -> None:
    assert command == ". .venv/bin/activate"
    assert re.search(r"-m venv \.venv$", run("make -n -B install", ROOT).stdout, re.MULTILINE)


def check_launch(command: str, checkout: Path) -> None:
    """The recipe parses with its overrides, accelerate takes the config; the weights are too large to run it."""
    *options, script, recipe = [word for word in shlex.split(command)[2:] if "=" not in word]
    assert script == "train/sft.py" and options[::2] in ([], ["--config_file"])
    for config in options[1::2]:
        load_config_from_file(str(ROOT / config))
    load_recipe(checkout / recipe, [word for word in shlex.split(command) if "=" in word])


def check_tensorboard(command: str, checkout: Path) -> None:
    folder = command.removeprefix("tensorboard --logdir ")
    assert shutil.which("tensorboard", path=Path(sys.executable).parent)
    assert Path(load_recipe(checkout / "my_recipe.yaml").training["output_dir"]).is_relative_to(folder)


def check_demo(command: str, checkout: Path) -> None:
    assert (ROOT / "scripts" / "run_demo.py").is_file()
    load_recipe(ROOT / "recipes" / "demo.yaml", shlex.split(command)[2:])


def check_generator(command: str, checkout: Path) -> None:
    """What it would write is compared with what is there by `test_generated_files_are_current` and others."""
    assert (ROOT / command.split()[1]).is_file()


def check_elsewhere(command: str, checkout: Path) -> None:
    """`test_commands_that_take_hours_know_their_options` does."""


def check_hooks(command: str, checkout: Path) -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}
    assert all(hook["entry"].startswith(".venv/bin/ruff ") for hook in repository["hooks"])


def check_walk(command: str, checkout: Path) -> None:
    """Run by `test_own_data_from_the_first_record_to_the_hub`, which takes its commands from the README."""
    assert command in commands(README)


RULES: list[tuple[Callable[[str], object], Callable[[str, Path], None]]] = [
    (re.compile(r"make [a-z]").match, check_make),
    (re.compile(r"\. ").match, check_activate),
    (lambda command: command.startswith("accelerate launch ") and not is_walk(command), check_launch),
    (is_walk, check_walk),
    (re.compile(r"tensorboard ").match, check_tensorboard),
    (re.compile(r"python scripts/(write_schema|write_recipe_table|draw_mask)\.py$").match, check_generator),
    (re.compile(r"python scripts/run_demo\.py ").match, check_demo),
    (re.compile(r"python scripts/make_demo\.py ").match, check_generator),
    (
        re.compile(r"python (scripts/(benchmark|compare_packing)|tests/(torture/torture|fuzz/fuzz))\.py ").match,
        check_elsewhere,
    ),
    (re.compile(r"pre-commit install$").match, check_hooks),
]


def rule_of(command: str) -> Callable[[str, Path], None]:
    (check,) = [check for applies, check in RULES if applies(command)]
    return check


@pytest.mark.parametrize("command", dict.fromkeys(commands(DOCUMENTS)))
def test_every_command_is_covered_by_one_rule(command, checkout):
    rule_of(command)(command, checkout)


@pytest.mark.parametrize("command", [text for text in commands(DOCUMENTS) if check_elsewhere is rule_of(text)])
def test_commands_that_take_hours_know_their_options(command, run_script, capsys):
    words = shlex.split(command)
    with pytest.raises(SystemExit) as end:
        first_option = next(index for index, word in enumerate(words) if word.startswith("--"))
        run_script(shlex.join([*words[:first_option], "--help"]))
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert [word for word in words if word.startswith("--") and word not in shown] == []


def test_the_own_recipe_needs_nothing_else(checkout):
    check_launch("accelerate launch train/sft.py my_recipe.yaml", checkout)


def test_every_piece_of_a_recipe_fits_into_one(tmp_path):
    pieces = re.findall(r"^```yaml\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    assert len(pieces) == 2
    for piece in map(yaml.safe_load, pieces):
        needed = {"model": {"name_or_path": "a"}, "training": {"output_dir": "b"}}
        recipe = {**needed, **piece, "training": {**needed["training"], **piece["training"]}}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        load_recipe(tmp_path / "recipe.yaml")


def test_editors_accept_the_own_recipe_and_mark_a_wrong_key(checkout):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((ROOT / "recipes/recipe.schema.json").read_text())
    recipe = read_recipe(checkout / "my_recipe.yaml")
    jsonschema.validate(recipe, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**recipe, "lora": {"rank": 8}}, schema)


def test_the_two_commands_come_first():
    assert commands(README)[:2] == ["make demo", "make test"]


@pytest.mark.parametrize("workflow", [".ci/run", ".github/workflows/ci.yml"])
def test_continuous_integration_runs_the_documented_commands(workflow):
    run_lines = re.findall(r"^(?:\s*- run: )?(make \w+)$", (ROOT / workflow).read_text(), re.MULTILINE)
    assert run_lines == ["make lint", "make test"]


# What the documents name and show


def test_generated_files_are_current():
    """When this fails: python scripts/write_recipe_table.py or python scripts/draw_mask.py"""
    tables = runpy.run_path(str(ROOT / "scripts/write_recipe_table.py"))["with_tables"]
    assert tables(README) == README
    mask = runpy.run_path(str(ROOT / "scripts/draw_mask.py"))
    assert mask["PICTURE"].read_text(encoding="utf-8") == mask["mask_svg"]()
    assert str(mask["PICTURE"].relative_to(ROOT)) in README


def test_the_examples_of_sources_are_entries_and_parts(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    table = README.partition("<!-- sources -->")[2].partition("<!-- end of sources -->")[0]
    examples = [code for line in table.splitlines()[3:] for code in re.findall(r"`([^`]+)`", line.split(" | ")[-1])]
    parts = [json.loads(example) for example in examples if example.startswith('{"')]
    entries = [yaml.safe_load(example) for example in examples if not example.startswith('{"')]
    assert len(parts) == 4 and len(entries) == 7
    for entry in entries:
        Dataset.model_validate(entry)
    for part in parts:
        typed = [{"role": "user", "content": [part]}, {"role": "assistant", "content": "red"}]
        listed = {key: value for key, value in part.items() if key != "type"}
        turns = [{"from": "human", "value": f"<{part['type']}>"}, {"from": "gpt", "value": "red"}]
        records = {"messages": typed}, {part["type"]: listed, "conversations": turns}
        media = [parse_record(record, "record 1", Locator((Path("m"),))).media for record in records]
        assert len(media[0]) == 1 and media[0] == media[1]


def test_the_table_has_every_key_with_its_default():
    rows = dict(re.findall(r"^\| `([\w.\[\]]+)` \| (\S*) \|", README, re.MULTILINE))
    schema = json.loads((ROOT / "recipes/recipe.schema.json").read_text())["$defs"]
    for section, name in (("model", "Model"), ("lora", "Lora"), ("data", "Data"), ("data.train[]", "Dataset")):
        for key, about in schema[name]["properties"].items():
            shown = rows[f"{section}.{key}"]
            assert (
                shown == "required" if "default" not in about else yaml.safe_load(shown.strip("`")) == about["default"]
            )
    assert rows["lora.r"] == "`128`" and rows["training.logging_steps"] == "`10`"


def test_the_picture_has_a_square_for_each_pair_that_sees_each_other():
    layout = runpy.run_path(str(ROOT / "scripts/draw_mask.py"))["LAYOUT"]
    squares = ElementTree.parse(ROOT / ".github/images/shared_prefix_mask.svg").findall(".//*[@class='seen']")
    by_hand = sum(
        prefix * (prefix + 1) // 2 + sum(length * prefix + length * (length + 1) // 2 for length in suffixes)
        for prefix, suffixes in layout.groups
    )
    assert len(squares) == by_hand == int(dense_mask(layout).sum())


def named_paths() -> Iterator[str]:
    inline = re.findall(
        r"`([^`\n]+)`|\]\((?!https?://|#)([^)]+)\)", re.sub(r"```.*?```", "", DOCUMENTS, flags=re.DOTALL)
    )
    folders = (*LINKED, "tests", ".github", ".ci")
    for text in (code or link for code, link in inline):
        for word in text.split():
            if word.split("/")[0] in folders and "/" in word or word.endswith((".md", ".txt")):
                yield word


def test_files_and_tests_that_are_named_exist():
    names = list(dict.fromkeys(named_paths()))
    assert "tests/conftest.py" in names and len(names) > 20
    for name in names:
        path, _, test = name.partition("::")
        assert (ROOT / path).exists(), name
        if test:
            body = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
            assert test in [node.name for node in body if isinstance(node, ast.FunctionDef)], name


def test_the_saving_that_is_claimed():
    clip, text, *claims = re.search(
        r"With P = (\d+) and T = (\d+) these are ([\d.]+) times fewer tokens at (\d+) questions a clip, "
        r"and (\d+) times at (\d+)\.",
        " ".join(README.split()),
    ).groups()
    prefix, suffix = int(clip), int(text)
    for ratio, questions in (claims[:2], claims[2:]):
        k, digits = int(questions), len(ratio.partition(".")[2])
        assert round(k * (prefix + suffix) / (prefix + k * suffix), digits) == float(ratio)


def test_the_cost_of_scale_follows_from_its_formulas():
    total, decoder = (float(re.search(rf"{letter} = ([\d.]+e9)", README)[1]) for letter in "WD")
    adapter = 128 * (4 * 2 * 4096 + 3 * (4096 + 11008)) * 32  # Vicuna's hidden and intermediate size, 32 layers
    rows = re.findall(r"^\| (8|64|512) \| ([\d.]+ GB, .*) \|$", README, re.MULTILINE)
    assert len(rows) == 3
    for number, cells in rows:
        gpus = int(number)
        share, speed = (gpus - 1) / gpus, 300 if gpus == 8 else 50
        sent = [8 * adapter, 4 * total + 4 * adapter, 4 * total + 2 * decoder]
        ddp = 2 * total + 16 * adapter
        held = [ddp, ddp / gpus, (2 * (total - decoder) + 16 * decoder) / gpus]
        expected = [
            cell
            for out, memory in zip(sent, held, strict=True)
            for cell in (f"{share * out / 1e9:.1f} GB, {share * out / 1e9 / speed:.2f} s", f"{memory / 1e9:.1f} GB")
        ]
        assert cells.split(" | ") == expected
