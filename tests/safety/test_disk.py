"""A disk that refuses: training says so at once, keeps what it had, and goes on when there is room."""

import json
import resource

import pytest

from data.errors import UserError
from data.files import UNFINISHED
from tests.safety.kills import files_of_at_most
from tests.short_run import result
from train.run_folder.checkpoint import checkpoints
from train.run_folder.manifest import damage
from train.sft import main


def limit_from(num_bytes):
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


# The adapter has 90 kB (safetensors' own error), the optimizer 170 kB (torch's), a small file fails as OSError.
@pytest.mark.parametrize("room", [50_000, 125_000, 1_000])
def test_a_checkpoint_that_does_not_fit(room, recipe_file, out, at):
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    at("on_step_begin", 3, lambda: limit_from(room))
    try:
        with pytest.raises(UserError) as refused:
            main([str(recipe_file), "training.eval_strategy=no"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    message = str(refused.value)
    if room > 10_000:
        assert f"cannot write checkpoint-4 into {out} (" in message
        assert f"stopped after step 4; {out}/checkpoint-2 is complete: the same command goes on" in message
    assert "\n" not in message
    assert [path.name for path in checkpoints(out)] == ["checkpoint-2"]
    assert damage(out / "checkpoint-2") is None
    assert not list(out.glob(f"*{UNFINISHED}"))

    main([str(recipe_file), "training.eval_strategy=no"])
    main([str(recipe_file), "training.eval_strategy=no", f"training.output_dir={out}-unbroken"])
    assert result(out) == result(out.with_name("out-unbroken"))


def test_a_result_that_does_not_fit_leaves_the_one_before(recipe_file, out, at):
    main([str(recipe_file), "training.eval_strategy=no"])
    before = result(out)
    with pytest.raises(UserError, match="cannot write the result into"), files_of_at_most(50_000):
        main([str(recipe_file), "training.eval_strategy=no"])
    assert result(out) == before
    assert not list(out.glob(f"*{UNFINISHED}"))


def test_no_room_for_anything_is_said_before_the_model_is_loaded(recipe_file, out, monkeypatch, capsys):
    monkeypatch.setattr("train.sft.load_trainable", lambda *args: pytest.fail("loaded"))
    with pytest.raises(UserError, match="training.output_dir: cannot write"), files_of_at_most(0):
        main([str(recipe_file)])


def test_checkpoints_and_result_say_where_they_come_from(recipe_file, out):
    main([str(recipe_file), "training.learning_rate=0.002"])
    for folder, step in ((out, 6), (out / "checkpoint-2", 2)):
        said = json.loads((folder / "provenance.json").read_text())
        assert said["step"] == step
        assert said["recipe"]["training"]["learning_rate"] == 0.002
        assert {"torch", "transformers", "peft"} <= said["versions"].keys()
        assert set(said["data"]) == {"train", "eval"} and said["processes"] == 1
