"""reeltune train in a terminal: Ctrl-C once and twice, SIGTERM, a rank that is killed, and what is left of it."""

import re
import signal

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.distributed.adversarial import NUM_FRAMES
from tests.distributed.terminal import CTRL_C, REELTUNE, ROOT, Terminal
from tests.short_run import write_recipe
from tests.terminals import left_on_screen, screen_lines, widest
from tests.warm import COLD, Warm
from train.progress.lines import HEADER
from train.run_folder.checkpoint import checkpoints
from train.run_folder.manifest import damage

BAR = "━━"


@pytest.fixture
def recipe(smallest_folder, tmp_path):
    """A run without an end, which saves when it is asked to."""
    training = {"max_steps": 100000, "logging_steps": 1, "save_steps": 50000, "dataloader_num_workers": 1}
    return write_recipe(
        tmp_path, smallest_folder, smallest_folder / "train.json", {}, {"num_frames": NUM_FRAMES}, training
    )


@pytest.fixture
def train(recipe, tmp_path):
    """Starts `reeltune train RECIPE`; the terminal is closed with all that is in it."""
    open_ones = []

    def begin(*options: str, start: type = Warm) -> Terminal:
        open_ones.append(Terminal(*REELTUNE, "train", recipe, *options, folder=tmp_path, start=start))
        return open_ones[-1]

    yield begin
    for terminal in open_ones:
        terminal.close()


def sound_checkpoints(tmp_path):
    found = checkpoints(tmp_path / "out")
    assert all(damage(checkpoint) is None for checkpoint in found)
    return found


def check_screen(shown: str) -> list[str]:
    """Return the lines that are left, all of which fit 80 columns; none is a library's, and none a dict."""
    lines = left_on_screen(shown)
    assert widest(shown) <= 80, shown
    assert not re.search(r"warn|deprecat|traceback|[{}]", shown, re.IGNORECASE), shown
    assert not any(BAR in line for line in lines), "it is taken away"
    return lines


def test_ctrl_c_saves_and_the_second_one_leaves(train, tmp_path):
    """The data loader's worker, which gets it too, must not take the step with it."""
    loud = ("training.disable_tqdm=false", "training.report_to=tensorboard")
    once = train(*loud, start=COLD)
    once.wait_for("loading libraries")
    once.wait_for("training into")
    once.wait_for("    3/100000 ")
    once.press(CTRL_C)
    assert once.end() == 130
    lines = check_screen(once.shown)
    assert "SIGINT: finishing the step, then saving; Ctrl-C again leaves without" in lines
    (saved,) = sound_checkpoints(tmp_path)
    step = int(saved.name.rpartition("-")[2])
    assert f"SIGINT: saved after step {step}; the same command continues" in lines
    assert HEADER in lines and sum("/100000 " in line for line in lines) == step
    assert f"training {BAR}" in "".join(screen_lines(once.shown)), "there was one"
    assert (tmp_path / "out" / "loss.png").is_file()
    assert "Not finished: " in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")

    twice = train(*loud)
    twice.wait_for("continuing from")
    twice.wait_for(f" {step + 1}/100000 ")
    twice.press(CTRL_C + CTRL_C)
    assert twice.end() == 130
    assert f"continuingfrom{tmp_path}/out/{saved.name}" in "".join("".join(left_on_screen(twice.shown)).split())
    assert "Traceback" not in twice.shown
    (folder,) = {path.parent for path in (tmp_path / "out").rglob("events.out.*")}
    steps = [event.step for event in EventAccumulator(str(folder)).Reload().Scalars("loss/train")]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) > step, "one curve"


@pytest.mark.parametrize("options", [(), ("--hardware", str(ROOT / "accelerate_configs" / "cpu_2.yaml"))])
def test_a_terminal_that_is_closed_costs_no_step(options, train, tmp_path):
    """Whoever loses the connection, or closes the window, had no time to press anything."""
    terminal = train("training.disable_tqdm=false", *options)
    terminal.wait_for("    3/100000 ")
    assert terminal.hang_up() == 128 + signal.SIGHUP
    assert len(sound_checkpoints(tmp_path)) == 1


def test_ctrl_c_while_libraries_are_loaded_is_one_line(train):
    terminal = train(start=COLD)
    terminal.wait_for("loading libraries")
    terminal.press(CTRL_C)
    assert terminal.end() == 130
    assert terminal.shown.split("\r\n")[-2] == "interrupted by Ctrl-C" and "Traceback" not in terminal.shown


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_the_command_or_to_a_rank_ends_all_ranks(number, train, tmp_path):
    # Without workers: a server that is forking one when its rank is killed complains about it.
    options = ("--hardware", str(ROOT / "accelerate_configs" / "cpu_2.yaml"), "training.dataloader_num_workers=0")
    terminal = train(*options)
    terminal.wait_for("loss")
    if number == signal.SIGTERM:
        terminal.process.terminate()
        assert terminal.end() == 143
        assert "SIGTERM: finishing the step, then saving\r\n" in terminal.shown
        assert terminal.shown.count("SIGTERM: saved after step") == 1
        assert len(sound_checkpoints(tmp_path)) == 1
    else:
        terminal.rank(1).kill()
        assert terminal.end() == 137
        line = "error: process 1 of 2 was killed by SIGKILL; the same command continues from the last checkpoint"
        assert terminal.shown.count("error: ") == 1 and line in terminal.shown.replace("\r\n", "")
    assert "Traceback" not in terminal.shown


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("no-such.yaml",), "error: no-such.yaml: no such recipe file; check the path"),
        (("broken.yaml",), "error: broken.yaml: line 2: not valid YAML"),
        (("typo.yaml",), "error: typo.yaml: data.tarin: is no key of a recipe; did you mean 'train'?"),
        (("no-data.yaml",), "error: gone.json: cannot read the data file: No such file or directory"),
        (("no-data.yaml", "data.train[0].path=gone-*.json"), "error: gone-*.json: no file fits 'gone-*.json'; "),
        (("no-data.yaml", "training.lr=1"), "error: command line: training.lr: is no key of a recipe"),
        (("--gpus", "-1", "broken.yaml"), "error: Invalid value for '--gpus': "),
    ],
)
def test_what_is_wrong_at_once_is_one_line_at_once(words, error, tmp_path):
    (tmp_path / "broken.yaml").write_text("model: [\n")
    recipe = "model: {name_or_path: m}\ntraining: {output_dir: o}\ndata: {train: [{path: gone.json}]"
    (tmp_path / "no-data.yaml").write_text(recipe + "}\n")
    (tmp_path / "typo.yaml").write_text(recipe + ", tarin: []}\n")
    start = COLD if words == ("no-such.yaml",) else Warm  # one start from nothing will do
    terminal = Terminal(*REELTUNE, "train", *words, folder=tmp_path, start=start)
    try:
        assert terminal.end() == 2
    finally:
        terminal.close()
    assert terminal.shown.startswith(error) and terminal.shown.count("\n") == 1
