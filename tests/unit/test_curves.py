"""Curves of a run: the same names for every tracker, one curve over continuations, and a picture without a server."""

import json
import math
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import TrainerControl, TrainerState, TrainingArguments

from train.progress.curves import GROUPS, TENSORBOARD, Curves, named
from train.progress.loss_picture import PICTURE, draw_losses, smoothed

RECIPE = {"model": {"name_or_path": "me/base"}, "training": {"learning_rate": 0.002, "logging_steps": 1}}
LOGS = {"grad_norm": 2.0, "loss": 1.5, "learning_rate": 1e-3, "epoch": 0.5, "peak_memory_mib": 9.0, "step_s": 0.1}
EVALUATED = {"eval_loss": 1.25, "eval_runtime": 2.0, "epoch": 0.5, "eval_something_new": 7}
NAMED = ["loss/train", "speed/step_s", "data/epoch", "memory/peak_memory_mib", "optimizer/learning_rate"]
NAMED += ["optimizer/grad_norm"]


def test_names_are_in_groups_the_loss_first():
    assert list(GROUPS) == ["loss", "accuracy", "speed", "data", "memory", "optimizer"]
    assert list(named(LOGS)) == NAMED
    assert named({**EVALUATED, "note": "a word"}) == {
        **{"loss/eval": 1.25, "speed/eval_runtime": 2.0, "data/epoch": 0.5, "other/eval_something_new": 7},
    }


def test_accuracies_stand_beside_each_other():
    figures = {"accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6, "questions": 9}
    logs = {f"eval_{part}{key}": value for part in ("", "val/", "modality/clip/") for key, value in figures.items()}
    assert named(logs | {"eval_val/loss": 1.0, "eval_questions_per_s": 3.0, "eval_val/questions_per_s": 2.0}) == {
        **{"accuracy/eval": 0.5, "accuracy/low": 0.4, "accuracy/high": 0.6, "data/eval_questions": 9},
        **{"accuracy/source/val": 0.5, "loss/source/val": 1.0, "accuracy/modality/clip": 0.5},
        **{"speed/eval_questions_per_s": 3.0, "speed/source/val": 2.0},
    }


@pytest.fixture
def report(tmp_path):
    """Returns what runs steps from one on under a tracker, as a process that may be killed behind them."""

    def run(tracker: str, *steps: int, loss: float = 1.5, is_killed: bool = False) -> None:
        args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[], run_name="mine", project="all")
        args.report_to = [tracker]
        state, control = TrainerState(global_step=steps[0] - 1), TrainerControl()
        curves = Curves(RECIPE)
        curves.on_train_begin(args, state, control)
        for state.global_step in steps:
            curves.on_log(args, state, control, logs={**LOGS, "loss": loss})
        curves.on_log(args, state, control, logs=EVALUATED)
        if not is_killed:
            curves.on_train_end(args, state, control)

    return run


def test_tensorboard_has_one_curve_over_a_killed_run_and_its_continuation(report, tmp_path):
    report("tensorboard", 1, 2, 3, 4, 5, loss=1.0, is_killed=True)
    report("tensorboard", 4, 5, 6, loss=2.0)
    assert {path.parent for path in tmp_path.rglob("events.out.*")} == {tmp_path / TENSORBOARD}
    events = EventAccumulator(str(tmp_path / TENSORBOARD)).Reload()
    curve = [(event.step, event.value) for event in events.Scalars("loss/train")]
    assert curve == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0), (5, 2.0), (6, 2.0)]
    assert {*NAMED, "loss/eval", "speed/eval_runtime"} <= set(events.Tags()["scalars"])
    (text, *_) = events.Tensors("recipe/text_summary")
    assert "```yaml\nmodel:\n  name_or_path: me/base\n" in text.tensor_proto.string_val[0].decode()


def test_a_run_that_begins_again_leaves_nothing_of_what_was_before(report, tmp_path):
    report("tensorboard", 1, 2, 3, loss=1.0, is_killed=True)
    report("tensorboard", 1, 2, loss=2.0)
    events = EventAccumulator(str(tmp_path / TENSORBOARD)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss/train")] == [(1, 2.0), (2, 2.0)]


class Recorder(ModuleType):
    """A stand-in of a tracker's module, which notes what it is called with."""

    def __init__(self, name: str):
        super().__init__(name)
        self.calls: list[tuple] = []
        self.config = SimpleNamespace(update=self.noting("config"))
        self.utils = SimpleNamespace(
            validation=SimpleNamespace(MAX_PARAM_VAL_LENGTH=500, MAX_PARAMS_TAGS_PER_BATCH=100)
        )

    def noting(self, what: str):
        def call(*given, **named_ones):
            self.calls.append((what, given, named_ones))
            return [] if what == "search_experiments" else self

        return call

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return self.noting(name)


@pytest.mark.parametrize(
    ("name", "log", "settings", "begin", "end"),
    [
        ("wandb", "log", "config", ("init", {"project": "all", "name": "mine"}), "finish"),
        ("trackio", "log", "config", ("init", {"project": "all", "name": "mine"}), "finish"),
        ("mlflow", "log_metrics", "log_params", ("start_run", {"run_name": "mine"}), "end_run"),
    ],
)
def test_each_tracker_gets_the_same_names(name, log, settings, begin, end, report, monkeypatch):
    for variable in ("WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID", "MLFLOW_TAGS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setitem(sys.modules, name, module := Recorder(name))
    report(name, 1, 2)
    logged = [(list(given[0]), kwargs["step"]) for what, given, kwargs in module.calls if what == log]
    evaluated = ["loss/eval", "speed/eval_runtime", "data/epoch", "other/eval_something_new"]
    assert logged == [(NAMED, 1), (NAMED, 2), (evaluated, 2)]
    ((values, *_),) = [given for what, given, _ in module.calls if what == settings]
    assert values["training.learning_rate"] == 0.002 and values["model.name_or_path"] == "me/base"
    ((kwargs),) = [kwargs for what, _, kwargs in module.calls if what == begin[0]]
    assert begin[1].items() <= kwargs.items() and module.calls[-1][0] == end


def write_metrics(folder, lines):
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def colours(path) -> set[tuple[int, ...]]:
    return {tuple(colour) for colour in np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)}


RED, ORANGE, BLUE = (255, 0, 0), (0xD9, 0x48, 0x0F), (0x1F, 0x5F, 0x99)


def test_the_picture_shows_the_losses(tmp_path):
    trained = [{"step": step, "loss": 5 / step, "learning_rate": 1e-3 / step} for step in range(1, 60)]
    write_metrics(tmp_path, trained)
    assert draw_losses(tmp_path) == tmp_path / PICTURE
    assert BLUE in (plain := colours(tmp_path / PICTURE)) and not {ORANGE, RED} & plain
    write_metrics(tmp_path, [*trained, {"step": 59, "eval_loss": 1.0}, {"step": 60, "loss": math.nan}])
    draw_losses(tmp_path)
    assert {BLUE, ORANGE, RED} <= colours(tmp_path / PICTURE)
    assert Image.open(tmp_path / PICTURE).size == (960, 540)


@pytest.mark.parametrize("losses", [[math.nan, -math.inf, math.inf], [1e30, 1e-30, 1.0]])
def test_no_loss_breaks_the_picture(losses, tmp_path):
    write_metrics(tmp_path, [{"step": step, "loss": loss} for step, loss in enumerate(losses, 1)])
    assert draw_losses(tmp_path) == tmp_path / PICTURE
    assert (RED in colours(tmp_path / PICTURE)) == (not all(map(math.isfinite, losses)))


def test_where_there_is_no_curve_there_is_no_picture(tmp_path):
    write_metrics(tmp_path, [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}, {"step": 2, "train_runtime": 2.0}])
    assert draw_losses(tmp_path) is None and not (tmp_path / PICTURE).exists()


def test_a_picture_that_cannot_be_written_is_a_warning(tmp_path, capsys):
    assert draw_losses(tmp_path) is None
    said = capsys.readouterr().err
    assert said.startswith(f"{tmp_path / PICTURE} is not drawn: ") and said.count("\n") == 1


def test_the_smoothed_curve_is_a_weighted_mean():
    losses = [(1, 4.0), (2, math.nan), (3, 1.0), (4, 3.0)]
    weights = [0.64, 0.8, 1.0]
    assert smoothed(losses)[-1] == (4, pytest.approx(np.average([4.0, 1.0, 3.0], weights=weights)))
    assert [step for step, _ in smoothed(losses)] == [1, 3, 4]
