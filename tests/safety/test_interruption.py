"""Signals at every kind of moment: a sound checkpoint, the documented status, and the unbroken run's result."""

import hashlib
import os
import signal

import pytest

from tests.short_run import HIGHEST_LOSS, metrics, result, state
from train.run_folder.checkpoint import checkpoints
from train.run_folder.manifest import damage
from train.sft import main

STATUS = {signal.SIGTERM: 143, signal.SIGUSR1: 138, signal.SIGINT: 130, signal.SIGHUP: 129}


def send(number):
    return lambda: os.kill(os.getpid(), number)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Run a recipe, or return the folder of the run that had the same overrides."""
    folder = tmp_path_factory.mktemp("unbroken")

    def run(recipe_file, *overrides):
        out = folder / hashlib.sha256("\n".join(overrides).encode()).hexdigest()
        if not out.exists():
            main([str(recipe_file), f"training.output_dir={out}", *overrides])
        return out

    return run


@pytest.fixture
def assert_goes_on_as_unbroken(recipe_file, out, unbroken):
    """Give the same command again, and compare with a run that was not interrupted."""

    def check(*overrides):
        main([str(recipe_file), *overrides])
        whole = unbroken(recipe_file, *overrides)
        assert result(out) == result(whole)
        for key in ("loss", "eval_loss"):
            assert metrics(out, key) == metrics(whole, key)
        last = [state(folder / "checkpoint-6") for folder in (out, whole)]
        for name in ("best_metric", "best_global_step", "stateful_callbacks"):
            assert last[0][name] == last[1][name]

    return check


@pytest.mark.parametrize(
    ("number", "event", "step", "saved"),
    [
        (signal.SIGTERM, "on_substep_end", 2, 3),  # within a step: it is finished
        (signal.SIGUSR1, "on_pre_optimizer_step", 0, 1),
        (signal.SIGINT, "on_step_begin", 3, 4),
        (signal.SIGTERM, "on_prediction_step", 4, 4),  # in an evaluation: its step is saved, it is owed
        (signal.SIGUSR1, "on_save", 2, 2),  # in saving: no second checkpoint
        (signal.SIGTERM, "on_epoch_begin", 0, 1),
        (signal.SIGHUP, "on_step_begin", 1, 2),
    ],
)
def test_a_signal_saves_and_leaves(
    number, event, step, saved, recipe_file, out, at, assert_goes_on_as_unbroken, capsys, hangup
):
    overrides = ["data.rows_per_step=2", "training.load_best_model_at_end=true"]
    at(event, step, send(number))
    handlers = [signal.getsignal(each) for each in STATUS]
    with pytest.raises(SystemExit) as left:
        main([str(recipe_file), *overrides])
    assert left.value.code == STATUS[number]
    assert f"{number.name}: saved after step {saved}; the same command continues" in capsys.readouterr().out
    assert checkpoints(out)[-1].name == f"checkpoint-{saved}"
    assert damage(checkpoints(out)[-1]) is None
    assert not (out / "adapter_model.safetensors").exists()
    assert [signal.getsignal(each) for each in STATUS] == handlers
    assert_goes_on_as_unbroken(*overrides)


def test_an_owed_evaluation_is_made_up_for_however_often_it_is_interrupted(
    recipe_file, out, at, assert_goes_on_as_unbroken
):
    at("on_prediction_step", 2, send(signal.SIGTERM))
    for _ in range(2):
        with pytest.raises(SystemExit):
            main([str(recipe_file)])
        at("on_prediction_step", 2, send(signal.SIGTERM))
        assert (out / "checkpoint-2" / "evaluation_pending").exists()
    with pytest.raises(SystemExit):
        main([str(recipe_file)])
    assert_goes_on_as_unbroken()


def test_evaluation_at_an_epochs_end_is_owed_too(recipe_file, out, at, assert_goes_on_as_unbroken):
    """3 rows make an epoch; the checkpoint of step 3 is written before the evaluation of its epoch."""
    epochs = ["training.eval_strategy=epoch", "training.save_steps=3"]
    at("on_prediction_step", 3, send(signal.SIGTERM))
    with pytest.raises(SystemExit):
        main([str(recipe_file), *epochs])
    assert (out / "checkpoint-3" / "evaluation_pending").exists()
    at("on_step_end", 4, send(signal.SIGTERM))  # in the middle of an epoch nothing is evaluated
    with pytest.raises(SystemExit):
        main([str(recipe_file), *epochs])
    assert metrics(out, "eval_loss")[-1][0] == 3
    assert_goes_on_as_unbroken(*epochs)


def test_a_signal_in_the_last_step_changes_nothing(recipe_file, out, at):
    at("on_step_end", 6, send(signal.SIGTERM))
    main([str(recipe_file)])
    assert (out / "adapter_model.safetensors").exists()


def test_early_stopping_keeps_its_patience_over_an_interruption(recipe_file, out, at):
    """Two evaluations without a better one end the run after step 6."""
    early = ["early_stopping_patience=2", "training.load_best_model_at_end=true", "training.max_steps=20"]
    early += HIGHEST_LOSS
    at("on_step_end", 5, send(signal.SIGTERM))
    with pytest.raises(SystemExit):
        main([str(recipe_file), *early])
    main([str(recipe_file), *early])
    assert checkpoints(out)[-1].name == "checkpoint-6"
    assert state(out / "checkpoint-6")["best_global_step"] == 2
    assert result(out) == result(out / "checkpoint-2")
    (out / "adapter_model.safetensors").unlink()  # lost before it was written: the run is over all the same
    main([str(recipe_file), *early])
    assert checkpoints(out)[-1].name == "checkpoint-6"
    assert result(out) == result(out / "checkpoint-2")


def test_a_run_that_has_ended_takes_no_step_more(recipe_file, out):
    """A signal in the middle of an epoch, too."""
    short = ["training.max_steps=4", "training.save_steps=4"]
    main([str(recipe_file), *short])
    before = result(out)
    (out / "adapter_model.safetensors").unlink()
    main([str(recipe_file), *short])
    assert result(out) == before
    assert [path.name for path in checkpoints(out)] == ["checkpoint-4"]
