"""Every command of the documents runs as it is written, or is checked by a rule."""

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from PIL import Image
from typer.testing import CliRunner

from data.sources.conversation import read_conversations
from data.sources.source import Source
from tests.documents import EVERYTHING, PAGES, ROOT, commands, files, sessions
from tests.warm import run_warm
from train.commands.app import build
from train.commands.app import run as reeltune
from train.recipe.load import load_recipe

LINKED = ("train", "data", "scripts", "recipes", "accelerate_configs", "tests")

# The walk through one's own data, run as it is written


@pytest.fixture(scope="module")
def checkout(media_folder, tmp_path_factory) -> Path:
    """A folder that looks like the checkout, with the documents' example files and media of the names in them."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
    (folder / "my_data" / "media").mkdir(parents=True)
    for name, text in files(EVERYTHING).items():
        (folder / name).write_text(text, encoding="utf-8")
    for records in (folder / "my_data").glob("*.json*"):
        for conversation in read_conversations(Source(str(records), media_root=str(folder / "my_data" / "media"))):
            for media in conversation.media:
                if media.kind == "video":
                    shutil.copy(media_folder / "clip0.mp4", media.path)
                else:
                    Image.open(media_folder / "picture0.png").save(media.path)
    return folder


def run(command: str, folder: Path, is_warm: bool = False) -> subprocess.CompletedProcess:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HOME": str(folder / "hf"),  # away from an accelerate config of this machine's user
    }
    words, start = shlex.split(command), subprocess.run
    if is_warm:
        assert words[0] == "accelerate"
        words[:1], start = [sys.executable, "-m", "accelerate.commands.accelerate_cli"], run_warm
    return start(words, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture
def run_script(checkout, monkeypatch, capsys) -> Callable[[str], str]:
    """Runs `python scripts/X.py ...` or `reeltune X ...` here, where torch is imported; returns what it prints."""

    def run_here(command: str) -> str:
        monkeypatch.chdir(checkout)
        if command.startswith("reeltune "):
            capsys.readouterr()
            reeltune(shlex.split(command)[1:])
            return capsys.readouterr().out
        python, script, *arguments = shlex.split(command)
        assert python == "python"
        monkeypatch.syspath_prepend(str(ROOT / "scripts"))
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        capsys.readouterr()
        runpy.run_path(script, run_name="__main__")
        return capsys.readouterr().out

    return run_here


def is_walk(command: str) -> bool:
    scripts = r"python scripts/(new_model|check_data|preview|generate|evaluate|merge_adapter|push_to_hub)\.py "
    commands = r"reeltune (new-model|check|preview|generate|report|merge(?! \S+=)|push) [^-]"
    return bool(re.match(f"{scripts}|{commands}|reeltune new-model|accelerate launch .*my_recipe", command))


SCRIPTS = {"new-model": "new_model", "check": "check_data", "merge": "merge_adapter", "push": "push_to_hub"}


def by_script(command: str) -> str:
    """Return `reeltune X ...` as `python scripts/X.py ...`: two doors to one command."""
    found = re.match(r"reeltune (\S+)", command)
    return f"python scripts/{SCRIPTS.get(found[1], found[1])}.py{command[found.end() :]}" if found else command


def walk() -> list[str]:
    """Return the commands on one's own data: those of the README, then what the pages of docs/ add."""
    first: dict[str, str] = {}
    for command in [command for page in PAGES.values() for command in commands(page) if is_walk(command)]:
        first.setdefault(by_script(command), command)
    return list(first.values())


def test_own_data_from_the_first_record_to_the_hub(checkout, run_script):
    printed = {}
    for command in walk():
        if not command.startswith("accelerate"):
            printed[command] = run_script(command.replace("--shape 7b", "--shape tiny"))  # 7b has 15 GB
            continue
        small = "" if "name_or_path" in command else " model.name_or_path=outputs/tiny"  # the 7B weights are not here
        result = run(command + small, checkout, is_warm=True)  # test_equality.py starts from nothing
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        printed[command] = result.stdout

    def output_of(words: str) -> str:
        return next(text for command, text in printed.items() if words in command)

    assert [command for command, text in printed.items() if "all is well" in text and "check" in command]
    trained = output_of("accelerate launch train/sft.py")
    assert "2 conversations in 1 row" in trained and "trained: " in trained
    assert "the earlier run is in outputs/my-run/earlier-1" in output_of("--fresh")
    assert output_of("generate").endswith("\n") and " of 1 answers correct" in output_of("evaluate")
    assert "model.safetensors" in output_of("push_to_hub")

    outputs = checkout / "outputs"
    assert json.loads((outputs / "data.json").read_text())["problems"] == []
    for page in ("preview.html", "my-run/report.html"):
        assert (outputs / page).read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    for name in ("adapter_model.safetensors", "tokenizer_config.json", "recipe.yaml", "metrics.jsonl"):
        assert (outputs / "my-run" / name).is_file()
    assert list((outputs / "my-run").glob("checkpoint-*")) and list((outputs / "my-run").rglob("events.out.tfevents*"))
    assert json.loads((outputs / "scores.json").read_text())["questions"] == 1
    assert json.loads((outputs / "predictions.jsonl").read_text())["question"] == "What colour is the bus?"
    assert (outputs / "my-model" / "model.safetensors").is_file()


def test_the_tiny_model_is_as_large_as_the_page_says(model, visual_tokens):
    page = PAGES["docs/data.md"]
    millions = float(re.search(r"random model of ([\d.]+) million parameters", page)[1])
    assert model.num_parameters() / 1e6 == pytest.approx(millions, abs=0.05)
    assert f"{visual_tokens.video} tokens a clip" in page


def test_quiet_launch_shows_the_error_alone(checkout):
    command = "accelerate launch -q --config_file accelerate_configs/cpu.yaml train/sft.py no-such.yaml"
    result = run(command, checkout, is_warm=True)
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
    """Parse the recipe with its overrides and the accelerate config; the weights are too large to run it."""
    *options, script, recipe = [word for word in shlex.split(command)[2:] if "=" not in word]
    assert script == "train/sft.py" and options[::2] in ([], ["--config_file"])
    for config in options[1::2]:
        load_config_from_file(str(ROOT / config))
    load_recipe(checkout / recipe, [word for word in shlex.split(command) if "=" in word])


def check_reeltune(command: str, checkout: Path) -> None:
    """Know the command and its options, and parse a recipe; `tests/distributed/test_train_command.py` trains."""
    words = shlex.split(command)[1:]
    shown = CliRunner().invoke(build(), [*([words[0]] if not words[0].startswith("-") else []), "--help"]).output
    assert [word for word in words if word.startswith("--") and word not in shown] == []
    if words[0] == "train":
        load_recipe(checkout / words[1], [word for word in words if "=" in word])


def check_launched_evaluation(command: str, checkout: Path) -> None:
    """Know the config and the options; `tests/distributed/test_evaluate_in_two.py` evaluates in two processes."""
    launch, words = command.split(" scripts/evaluate.py ")
    load_config_from_file(str(ROOT / launch.removeprefix("accelerate launch --config_file ")))
    check_reeltune(f"reeltune evaluate {words}", checkout)


def check_tensorboard(command: str, checkout: Path) -> None:
    folder = command.removeprefix("tensorboard --logdir ")
    assert shutil.which("tensorboard", path=Path(sys.executable).parent)
    assert Path(load_recipe(checkout / "my_recipe.yaml").training["output_dir"]).is_relative_to(folder)


def check_demo(command: str, checkout: Path) -> None:
    assert (ROOT / "scripts" / "run_demo.py").is_file()
    load_recipe(ROOT / "recipes" / "demo.yaml", shlex.split(command)[2:])


def check_generator(command: str, checkout: Path) -> None:
    """Look for the script; `test_generated_files_are_current` and others compare what it writes."""
    assert (ROOT / command.split()[1]).is_file()


def check_elsewhere(command: str, checkout: Path) -> None:
    """Leave it to `test_commands_that_take_hours_know_their_options`."""


def check_gpu_script(command: str, checkout: Path) -> None:
    """Look for the script; `tests/integration/test_check_gpu.py` runs all of it on a CPU."""
    script, folder = command.removeprefix("bash ").split()
    assert os.access(ROOT / script, os.X_OK) and not folder.startswith("-")


def check_extra(command: str, checkout: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert re.search(r"\[(\w+)\]", command)[1] in extras


def check_hooks(command: str, checkout: Path) -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}
    assert all(hook["entry"].startswith(".venv/bin/ruff ") for hook in repository["hooks"])


def check_walk(command: str, checkout: Path) -> None:
    """Run by `test_own_data_from_the_first_record_to_the_hub`, which takes its commands from README and docs."""
    assert by_script(command) in map(by_script, walk())


RULES: list[tuple[Callable[[str], object], Callable[[str, Path], None]]] = [
    (re.compile(r"make [a-z]").match, check_make),
    (re.compile(r"\. ").match, check_activate),
    (re.compile(r"accelerate launch .*scripts/evaluate\.py ").match, check_launched_evaluation),
    (re.compile(r"accelerate launch (?!.*my_recipe).*train/sft\.py ").match, check_launch),
    (is_walk, check_walk),
    (lambda command: command.startswith("reeltune ") and not is_walk(command), check_reeltune),
    (re.compile(r"tensorboard ").match, check_tensorboard),
    (
        re.compile(r"python scripts/(write_(schema|recipe_table)|draw_(mask|rooms|pictures|pages))\.py$").match,
        check_generator,
    ),
    (re.compile(r"python scripts/run_demo\.py ").match, check_demo),
    (re.compile(r"python scripts/make_demo\.py ").match, check_generator),
    (
        re.compile(
            r"python (scripts/(benchmark|compare_packing|offline_wheels)|tests/(torture/torture|fuzz/fuzz))\.py "
        ).match,
        check_elsewhere,
    ),
    (re.compile(r"pip install -e \"\.\[ui\]\"$").match, check_extra),
    (re.compile(r"pre-commit install$").match, check_hooks),
    (re.compile(r"bash scripts/check_gpu\.sh ").match, check_gpu_script),
]


def rule_of(command: str) -> Callable[[str, Path], None]:
    (check,) = [check for applies, check in RULES if applies(command)]
    return check


def takes_hours(command: str) -> bool:
    return rule_of(command) is check_elsewhere


@pytest.mark.parametrize("command", dict.fromkeys(commands(EVERYTHING)))
def test_every_command_is_covered_by_one_rule(command, checkout):
    rule_of(command)(command, checkout)


@pytest.mark.parametrize("command", dict.fromkeys(filter(takes_hours, commands(EVERYTHING))))
def test_commands_that_take_hours_know_their_options(command, run_script, capsys):
    words = shlex.split(command)
    with pytest.raises(SystemExit) as end:
        first_option = next((index for index, word in enumerate(words) if word.startswith("--")), len(words))
        run_script(shlex.join([*words[:first_option], "--help"]))
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert [word for word in words if word.startswith("--") and word not in shown] == []


def test_the_own_recipe_needs_nothing_else(checkout):
    check_launch("accelerate launch train/sft.py my_recipe.yaml", checkout)


@pytest.mark.parametrize(("command", "output"), [each for page in PAGES.values() for each in sessions(page)])
def test_commands_print_what_is_shown(command, output, run_script, capsys):
    with pytest.raises(SystemExit) as end:
        run_script(command)
    assert (end.value.code, capsys.readouterr().err) == (2, output)


@pytest.mark.parametrize("workflow", [".ci/run", ".github/workflows/ci.yml"])
def test_continuous_integration_runs_the_documented_commands(workflow):
    run_lines = re.findall(r"^(?:\s*- run: )?(make \w+)$", (ROOT / workflow).read_text(), re.MULTILINE)
    assert run_lines == ["make lint", "make test"]
