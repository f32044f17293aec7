"""A step that is not finite never reaches the weights."""

import json

import pytest
import torch

from data.errors import UserError
from tests.short_run import result
from train.loop.trainer import RowTrainer
from train.run_folder.checkpoint import checkpoints
from train.sft import main


@pytest.fixture
def poisoned(monkeypatch):
    """poisoned(4, "loss"): the loss, or a gradient, of these optimizer steps is not a number."""

    def poison(steps, where):
        compute = RowTrainer.compute_loss

        def compute_loss(self, model, inputs, *args, **kwargs):
            loss = compute(self, model, inputs, *args, **kwargs)
            if model.training and self.state.global_step + 1 in steps:
                if where == "loss":
                    return loss * float("nan")
                parameter = next(p for p in model.parameters() if p.requires_grad)
                return loss + (parameter.sum() - parameter.sum().detach()) * torch.tensor(float("inf"))
            return loss

        monkeypatch.setattr(RowTrainer, "compute_loss", compute_loss)

    return poison


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_it_stops_names_the_step_and_keeps_the_checkpoint(where, poisoned, recipe_file, out):
    poisoned([4], where)
    with pytest.raises(UserError, match="step 4 is not finite: loss .*mixed.json record .*nonfinite.jsonl"):
        main([str(recipe_file)])
    assert [path.name for path in checkpoints(out)] == ["checkpoint-2"]
    (line,) = [json.loads(line) for line in (out / "nonfinite.jsonl").read_text().splitlines()]
    assert line["step"] == 4 and all("mixed.json record" in name for name in line["names"])


def test_without_the_poison_the_same_command_goes_on(poisoned, recipe_file, out, monkeypatch):
    with monkeypatch.context():
        main([str(recipe_file), f"training.output_dir={out}-unbroken"])
    poisoned([4], "loss")
    with pytest.raises(UserError):
        main([str(recipe_file)])
    monkeypatch.undo()
    main([str(recipe_file)])
    assert result(out) == result(out.with_name("out-unbroken"))
    assert (out / "nonfinite.jsonl").read_text() == ""


def test_skipped_steps_change_nothing_and_are_counted(poisoned, recipe_file, out, capsys):
    settings = ["on_nonfinite=skip", "training.lr_scheduler_type=constant", "training.save_steps=1"]
    poisoned([3, 5], "gradient")
    main([str(recipe_file), *settings])
    weights = [result(out / f"checkpoint-{step}") for step in range(1, 7)]
    assert weights[1] == weights[2] and weights[3] == weights[4]
    assert len(set(weights)) == 4
    assert "step 3 skipped: loss" in capsys.readouterr().out
    assert [json.loads(line)["step"] for line in (out / "nonfinite.jsonl").read_text().splitlines()] == [3, 5]


def test_skipping_has_a_limit_that_a_resumed_run_keeps(poisoned, recipe_file, out):
    settings = ["on_nonfinite=skip", "max_skipped_steps=2", "training.save_steps=1"]
    poisoned([2, 3, 4], "loss")
    for _ in range(2):
        with pytest.raises(UserError, match="step 4 is not finite, after 2 skipped steps"):
            main([str(recipe_file), *settings])
    assert checkpoints(out)[-1].name == "checkpoint-3"
