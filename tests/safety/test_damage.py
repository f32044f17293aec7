"""Whatever happens to the bytes of a checkpoint, no run continues from it; and nothing in one is ever executed."""

import os
import pickle
import shutil

import pytest
import torch

from data.errors import UserError
from tests.short_run import HIGHEST_LOSS, result
from train.run_folder.checkpoint import find_checkpoint
from train.run_folder.manifest import MANIFEST, damage, seal
from train.sft import main


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return tmp_path_factory.mktemp("finished")


@pytest.fixture
def run(finished, recipe_file, out):
    """A finished run with checkpoints 2, 4 and 6, trained once for the module and copied."""
    if not (finished / "out").exists():
        main([str(recipe_file)])
        shutil.copytree(out, finished / "out")
    elif not out.exists():
        shutil.copytree(finished / "out", out)
    return out


def test_every_damage_of_every_file_is_detected(run):
    checkpoint = run / "checkpoint-6"
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    assert {"adapter_model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt", "trainer_state.json"} <= {
        path.name for path in files
    }
    assert damage(checkpoint) is None
    for path in files:
        content = path.read_bytes()
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        for damaged in (content[:-1], content[:middle], b"", flipped, content + b"\0", None):
            path.unlink()
            if damaged is not None:
                path.write_bytes(damaged)
            assert damage(checkpoint) is not None, (path, damaged and len(damaged))
            path.write_bytes(content)
    assert damage(checkpoint) is None


def test_the_run_falls_back_and_ends_the_same(run, recipe_file, capsys):
    before = result(run)
    for step, name in ((6, "optimizer.pt"), (4, "trainer_state.json")):
        with open(run / f"checkpoint-{step}" / name, "r+b") as file:
            file.truncate(100)
    main([str(recipe_file)])
    printed = capsys.readouterr().out
    assert "checkpoint-6: optimizer.pt has 100 bytes instead of" in printed
    assert f"continuing from {run}/checkpoint-2" in printed
    assert result(run) == before
    assert sorted(path.name for path in (run / "unsound").iterdir()) == ["checkpoint-4", "checkpoint-6"]


def test_a_damaged_best_checkpoint_is_no_result(model_folder, recipe_file, out, capsys):
    best = ["training.load_best_model_at_end=true", *HIGHEST_LOSS]
    main([str(recipe_file), *best])
    chosen = out / "checkpoint-2"
    assert result(out) == result(chosen) != result(out / "checkpoint-6")
    (chosen / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=f"the best checkpoint, {chosen}, is unsound: adapter_model.safetensors has 0"):
        main([str(recipe_file), *best])
    main([str(recipe_file), *best])
    assert result(out) == result(out / "checkpoint-6")


class Boom:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"])
@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_code_in_a_checkpoint_is_never_run(name, form, run, recipe_file, tmp_path):
    """Even with a manifest that fits: a checkpoint from somebody else."""
    shutil.rmtree(run / "checkpoint-6")
    path, trace = run / "checkpoint-4" / name, tmp_path / "code_was_run"
    path.write_bytes(pickle.dumps(Boom(trace))) if form == "pickle" else torch.save(Boom(trace), path)
    (run / "checkpoint-4" / MANIFEST).unlink()
    seal(run / "checkpoint-4")
    assert find_checkpoint("auto", run)[0] == str(run / "checkpoint-4")
    if name == "training_args.bin":  # written by transformers, read by nobody
        main([str(recipe_file)])
    else:
        with pytest.raises((pickle.UnpicklingError, ValueError, RuntimeError)):
            main([str(recipe_file)])
    assert not trace.exists()
    pickle.loads(pickle.dumps(Boom(trace)))
    assert trace.exists()


def test_consumed_rows_are_not_decoded_again(run, recipe_file, monkeypatch):
    """The run takes 6 rows; resumed behind the fourth it decodes two."""
    from data.batches.collator import RowCollator

    collate, seen = RowCollator.__call__, []
    monkeypatch.setattr(RowCollator, "__call__", lambda self, batch: seen.append(batch) or collate(self, batch))
    shutil.rmtree(run / "checkpoint-6")
    main([str(recipe_file), "training.eval_strategy=no", f"training.output_dir={run}-new"])
    assert len(seen) == 6
    seen.clear()
    main([str(recipe_file), "training.save_steps=100", "resume=auto"])
    evaluations = 3  # rows of the evaluation behind step 6
    assert len(seen) == 2 + evaluations
