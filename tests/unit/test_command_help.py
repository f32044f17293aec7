"""Help is shown at once: nothing that takes seconds to import is imported for it."""

import inspect
import json
import os
import re
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import pytest

from train.commands import options
from train.commands.app import COMMANDS, COMPLETE, NAME, main, name_of, run
from train.commands.new_model import new_model
from train.jobs import generate as generating
from train.merging.verdict import TOLERANCES
from train.model.build import SHAPES
from train.recipe.training_keys import KEPT

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "transformers", "datasets", "av", "peft", "accelerate", "numpy", "pandas", "PIL", "rich"}
# All in one process, which tells what it has imported: a process each would take most of a minute here.
SHOW_HELP = """
import contextlib, io, json, runpy, sys
for line in json.loads(sys.argv[1]):
    printed = io.StringIO()
    sys.argv = [*line, "--help"]
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        if line[0] == "reeltune":
            from train.commands.door import main
            main()
        else:
            runpy.run_path(line[0], run_name="__main__")
    assert "sage: " in printed.getvalue(), line
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
COMMAND_NAMES = [name_of(command) for command in COMMANDS]
SCRIPTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "scripts").glob("*.py")
    if any(word in path.read_text(encoding="utf-8") for word in ("ArgumentParser", "run_script("))
)


# A recipe with a mistake, given to all commands that take one.
REFUSE = """
import contextlib, io, json, runpy, sys
from train.commands.app import run
for words in (["train"], ["check"], ["estimate"], ["preview", "--out", "page.html"]):
    with contextlib.suppress(SystemExit):
        run([*words, sys.argv[1]])
sys.argv = ["train/sft.py", sys.argv[1]]
with contextlib.suppress(SystemExit):
    runpy.run_path(sys.argv[0], run_name="__main__")
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def test_a_mistake_in_a_recipe_is_said_before_anything_that_takes_long_is_imported(tmp_path):
    recipe = {"model": {"name_or_path": "some/model"}, "data": {"train": [{"path": "a"}]}, "training": {"lr": 1}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    code = [sys.executable, "-c", REFUSE, str(tmp_path / "recipe.yaml")]
    done = subprocess.run(code, cwd=ROOT, capture_output=True, text=True)
    lines = done.stderr.splitlines()
    assert len(lines) == 10 and len(set(lines)) == 2  # each command has a word on both mistakes
    assert (
        f"error: {tmp_path / 'recipe.yaml'}: training.output_dir: " in lines[0] and "training.lr: is no key" in lines[1]
    )
    if version("transformers") == json.loads(KEPT.read_text(encoding="utf-8"))["transformers"]:  # others are asked
        assert HEAVY & set(json.loads(done.stdout)) - {"numpy", "rich"} == set()


@pytest.mark.parametrize(
    "words", [["-c", "from train.commands.door import main; main()"], ["scripts/generate.py"], ["train/sft.py", "a"]]
)
@pytest.mark.parametrize("is_heard", [True, False])
def test_ctrl_c_during_the_first_imports_is_one_line(words, is_heard, tmp_path):
    """They take seconds from a cold or remote disk. Jobs in the background of a script ignore it."""
    press = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nraise SystemExit(3)\n"
    for name in ("typer", "pydantic"):  # the first that commands, or the training script, import of others
        (tmp_path / f"{name}.py").write_text(press)
    answer = signal.default_int_handler if is_heard else signal.SIG_IGN
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        preexec_fn=lambda: signal.signal(signal.SIGINT, answer),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == ((130, "interrupted by Ctrl-C\n") if is_heard else (3, ""))


def test_help_imports_nothing_that_takes_long():
    lines = [[NAME], *([NAME, name] for name in COMMAND_NAMES), *([script] for script in SCRIPTS)]
    assert len(SCRIPTS) > 10 and ["reeltune", "check"] in lines
    code = [sys.executable, "-c", SHOW_HELP, json.dumps(lines)]
    done = subprocess.run(code, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert HEAVY & set(json.loads(done.stdout)) == set()


@pytest.mark.parametrize("name", COMMAND_NAMES)
def test_help_fits_80_columns_and_says_what_every_option_is_for(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    run([name, "--help"])
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    described = re.findall(
        r"^  (-[^ ]+(?: / -[^ ]+)?(?: <[^>]+>)?)\s+(\w.*)", shown.partition("Options:")[2], re.MULTILINE
    )
    assert len(described) == len(re.findall(r"^  -", shown, re.MULTILINE))


def test_the_commands_are_listed_each_on_one_line(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    run(["--help"])
    listed = capsys.readouterr().out.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in listed] == COMMAND_NAMES
    assert all(line.endswith((".", "?")) and not line.endswith("...") for line in listed)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("preview a.yaml", "Missing option '--out'; see --help"),
        ("evaluate m --data d --out o --limit 0", "Invalid value for '--limit': "),
        ("merge adapter out --dtype int8", "Invalid value for '--dtype': "),
        ("chekc a.yaml", "No such command 'chekc'"),
        ("check a.yaml --jsno f", "No such option: --jsno"),
        ("new-model --out o --vision v", "give either --shape, or --vision and --text"),
        ("push folder me/model --private --public", "--private and --public: give one of them"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(line, error, capsys):
    with pytest.raises(SystemExit) as end:
        run(line.split())
    printed = capsys.readouterr()
    assert (end.value.code, printed.out) == (2, "")
    assert printed.err.startswith(f"error: {error}") and printed.err.count("\n") == 1


def test_choices_are_those_of_the_functions_behind_them():
    (shapes,) = [kind for kind in get_args(inspect.signature(new_model).parameters["shape"].annotation)[:1]]
    assert set(get_args(get_args(shapes)[0])) == SHAPES.keys()
    assert set(get_args(options.Dtype)) == TOLERANCES.keys()


def test_pictures_and_clips_keep_the_order_of_the_command_line(monkeypatch):
    asked = []
    monkeypatch.setattr(generating, "generate_answers", lambda *given: asked.append(given[2]))
    run("generate m --video a --image b --prompt --image --video=c --image d".split())
    assert asked == [[("video", "a"), ("image", "b"), ("video", "c"), ("image", "d")]]


SHELLS = {
    "bash": {"COMP_WORDS": "reeltune ev", "COMP_CWORD": "1"},
    "zsh": {"_TYPER_COMPLETE_ARGS": "reeltune ev"},
    "fish": {"_TYPER_COMPLETE_ARGS": "reeltune ev", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
}


@pytest.mark.parametrize("shell", SHELLS)
def test_shells_complete_commands_and_options(shell, monkeypatch, capsys):
    def completed(words: str) -> str:
        monkeypatch.setattr(sys, "argv", [NAME])
        asked = {name: value.replace("reeltune ev", words) for name, value in SHELLS[shell].items()}
        for name, value in {COMPLETE: f"complete_{shell}", **asked}.items():
            monkeypatch.setenv(name, value.replace("1", str(words.count(" "))))
        with pytest.raises(SystemExit):
            main()
        return capsys.readouterr().out

    assert "evaluate" in completed("reeltune ev") and "merge" not in completed("reeltune ev")
    assert "--media-root" in completed("reeltune evaluate --med")
