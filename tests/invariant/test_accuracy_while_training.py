"""Accuracy while training: no trace in the weights, and the answers of `evaluate` on the same checkpoint."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.run_folders import without_clock
from tests.short_run import metrics, result, state, write_recipe
from tests.tiny_data import MIXED_RECORDS
from train import sft
from train.accuracy import exam
from train.commands import app
from train.commands.evaluate import evaluate
from train.sft import main


@pytest.fixture(scope="module")
def folder(model_folder, media_folder, tmp_path_factory) -> Path:
    """A recipe of 4 steps of one row each, with dropout, so that random numbers matter, and without evaluation."""
    folder = tmp_path_factory.mktemp("accuracy")
    (folder / "mixed.json").write_text(json.dumps(MIXED_RECORDS))
    training = {"max_steps": 4, "learning_rate": 1e-3, "logging_steps": 1, "save_steps": 2, "save_total_limit": 9}
    data = {"max_new_tokens": 6, "train": [{"path": str(folder / "mixed.json"), "media_root": str(media_folder)}]}
    write_recipe(folder, model_folder, folder / "mixed.json", {"dropout": 0.1}, data, training)
    few = {"path": str(folder / "mixed.json"), "media_root": str(media_folder), "max_questions": 5}
    sources = [{**few, "metric": "token_f1", "name": "few"}, {**data["train"][0], "metric": "auto"}]
    (folder / "asked.json").write_text(json.dumps(sources))
    return folder


def train(folder: Path, out: str, *overrides: str, asks: bool = True) -> Path:
    evaluation = [
        f"data.eval={(folder / 'asked.json').read_text()}",
        *("training.eval_strategy=steps", "training.eval_steps=2"),
    ]
    main(
        [str(folder / "recipe.yaml"), *(evaluation if asks else []), f"training.output_dir={folder / out}", *overrides]
    )
    return folder / out


@pytest.fixture(scope="module")
def asked(folder) -> Path:
    return train(folder, "asked")


def answers(run: Path, step: int, source: str) -> list[dict]:
    lines = (run / "evaluations" / str(step) / f"{source}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def scores(run: Path, step: int) -> dict:
    """Return what does not depend on the clock."""
    return without_clock(json.loads((run / "evaluations" / str(step) / "scores.json").read_text()))


def asked_afterwards(folder: Path, model: Path, *options: str) -> tuple[list[dict], dict]:
    """Return answers and summary of the command `evaluate`, of all questions."""
    source = json.loads((folder / "asked.json").read_text())[1]
    files = ["--out", str(folder / "answers.jsonl"), "--json", str(folder / "summary.json")]
    words = [str(model), "--data", source["path"], "--media-root", source["media_root"], "--max-new-tokens", "6"]
    app.run([*words, *files, *options], "evaluate", evaluate)
    records = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    return records, without_clock(json.loads((folder / "summary.json").read_text()))


def test_the_weights_are_those_of_a_run_without_questions(folder, asked):
    assert result(asked) == result(train(folder, "plain", asks=False))


def test_answers_are_those_of_the_command_on_the_same_checkpoint(folder, asked):
    for step, model in ((2, asked / "checkpoint-2"), (4, asked)):
        records, summary = asked_afterwards(folder, model)
        assert answers(asked, step, "mixed") == records
        of_all, kept = scores(asked, step)["sources"]["mixed"], summary["sources"]["mixed.json"]
        assert {name: of_all[name] for name in kept} == kept
        few, _ = asked_afterwards(folder, model, "--metric", "token_f1", "--limit", "5")
        assert answers(asked, step, "few") == few and len(few) == 5
    before = [record["predicted"] for record in answers(asked, 0, "mixed")]
    assert len(set(before)) > 5 and before != [record["predicted"] for record in records]


def test_figures_are_told_everywhere(asked):
    for key in ("eval_", "eval_few/", "eval_modality/clip/"):
        assert all(value > 0 for _, value in metrics(asked, f"{key}questions_per_s")), key
    assert [step for step, _ in metrics(asked, "eval_accuracy")] == [0, 2, 4]
    told = scores(asked, 2)
    assert (told["step"], told["questions"]) == (2, 22)
    assert {name: part["questions"] for name, part in told["modalities"].items()} == {
        "clip": 18,
        "picture": 3,
        "text": 1,
    }
    for key, part in {
        "eval_": told,
        "eval_few/": told["sources"]["few"],
        "eval_modality/picture/": told["modalities"]["picture"],
    }.items():
        figures = (part["accuracy"], *part["interval"], part["questions"], part["loss"])
        names = ("accuracy", "accuracy_low", "accuracy_high", "questions", "loss")
        assert [dict(metrics(asked, f"{key}{name}"))[2] for name in names] == pytest.approx(figures)


@pytest.mark.parametrize(
    "settings",
    [
        ["model.quantization=nf4", "model.dtype=bfloat16", "training.gradient_checkpointing=true"],
        ["data.feature_cache={folder}/features", "training.torch_compile=true", "training.torch_compile_backend=eager"],
        ["lora=null", "model.trainable=decoder", "data.packing=none", "model.attn_implementation=eager"],
    ],
    ids=["nf4", "compiled", "full"],
)
def test_no_trace_however_the_model_is_loaded(settings, folder, request):
    name = request.node.callspec.id
    settings = [each.format(folder=folder / name) for each in [*settings, "training.max_steps=2"]]
    asked, plain = train(folder, name, *settings), train(folder, f"{name}_plain", *settings, asks=False)
    weights = "model.safetensors" if name == "full" else "adapter_model.safetensors"
    assert (asked / weights).read_bytes() == (plain / weights).read_bytes()
    options = ["--quantization", "nf4"] if name == "nf4" else []
    assert answers(asked, 2, "mixed") == asked_afterwards(folder, asked, *options)[0]


def test_a_signal_while_the_model_answers_is_obeyed_at_once(folder, asked, monkeypatch, capsys):
    """Before the first step, and between two of them; what was evaluated before is kept, and nothing is there twice."""

    def interrupts(number: int):
        """Return an evaluation that meets with a signal before its first answer, when this many others are over."""
        left = [number]

        def evaluated(*given, **settings):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGTERM)
            return asks(*given, **settings)

        return evaluated

    asks, run = exam.evaluate, folder / "interrupted"
    for number, step in ((0, 0), (1, 2)):
        monkeypatch.setattr(exam, "evaluate", interrupts(number))
        with pytest.raises(SystemExit) as left:
            train(folder, "interrupted")
        assert left.value.code == 143
        assert f"saved after step {step}" in capsys.readouterr().out
        assert not (run / "evaluations" / str(step)).exists()
    monkeypatch.setattr(exam, "evaluate", asks)
    train(folder, "interrupted")
    assert result(run) == result(asked)
    for step in (0, 2, 4):
        assert scores(run, step) == scores(asked, step)
        assert answers(run, step, "mixed") == answers(asked, step, "mixed")
    for key in ("loss", "eval_loss", "eval_accuracy"):
        assert metrics(run, key) == metrics(asked, key)


def test_evaluations_behind_the_checkpoint_come_again(folder, asked, monkeypatch):
    """The base is not asked again, what is left of a killed evaluation goes."""
    run = folder / "killed"
    shutil.copytree(asked, run)
    shutil.rmtree(run / "checkpoint-4")
    (run / "adapter_model.safetensors").unlink()
    (run / "evaluations" / ".4.1234.reeltune-unfinished").mkdir()
    (run / "evaluations" / "4" / "scores.json").write_text("{}")
    before = (run / "evaluations" / "0").stat().st_ino
    train(folder, "killed")
    assert sorted(path.name for path in (run / "evaluations").iterdir()) == ["0", "2", "4"]
    assert (run / "evaluations" / "0").stat().st_ino == before
    assert scores(run, 4) == scores(asked, 4)
    assert metrics(run, "eval_accuracy") == metrics(asked, "eval_accuracy")


@pytest.mark.parametrize("measure", ["accuracy", "few/accuracy"])
def test_the_best_model_is_that_with_the_highest_accuracy(measure, folder, monkeypatch):
    """Training ends when the accuracy has not risen twice."""

    class Falling(exam.Exam):
        def __call__(self, model, step, *others):
            return {measure: 1 - step / 100, "accuracy_low": 0.0, "accuracy_high": 1.0, "questions_per_s": 1.0} | {
                "accuracy": 1 - step / 100,
                "questions": 1,
            }

    monkeypatch.setattr(sft, "Exam", Falling)
    best = [
        "training.load_best_model_at_end=true",
        f"training.metric_for_best_model={measure}",
        "training.save_steps=1",
    ]
    best += ["early_stopping_patience=2", "training.max_steps=9", "training.eval_steps=1"]
    run = train(folder, measure.replace("/", "-"), *best)
    kept = state(run / "checkpoint-3")
    assert (kept["best_global_step"], kept["best_metric"]) == (1, 0.99)
    assert not (run / "checkpoint-4").exists()
    assert result(run) == result(run / "checkpoint-1") != result(run / "checkpoint-3")


def test_the_last_step_is_evaluated_without_a_strategy_too(folder):
    run = train(folder, "ends", "training.eval_strategy=no", "training.max_steps=1", "training.eval_on_start=false")
    assert [path.name for path in (run / "evaluations").iterdir()] == ["1"]
