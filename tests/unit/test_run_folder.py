"""One run in a folder at a time, one recipe, one data set."""

import json
import multiprocessing
import time

import pytest
import yaml

from data.errors import UserError
from train.recipe.identity import changed_values, what_matters
from train.recipe.load import load_recipe
from train.run_folder.manifest import seal
from train.run_folder.open_run import enter_run_folder, lock_folder, open_run, start_run
from train.run_folder.provenance import write_provenance

DATA = {"train": "aa", "eval": "bb"}


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "model": {"name_or_path": "base"},
                "data": {"train": [{"path": "train.json"}], "eval": [{"path": "val.json"}]},
                "training": {"output_dir": str(tmp_path / "out"), "learning_rate": 1e-4},
            }
        )
    )

    def with_changes(*overrides):
        return load_recipe(path, list(overrides)).dump()

    return with_changes


@pytest.fixture
def out(tmp_path, recipe):
    (tmp_path / "out").mkdir()
    open_run(tmp_path / "out", recipe(), DATA, fresh=False)
    (tmp_path / "out" / "checkpoint-4").mkdir()
    (tmp_path / "out" / "metrics.jsonl").write_text("{}\n")
    return tmp_path / "out"


def test_the_same_recipe_and_data_go_on(out, recipe):
    assert open_run(out, recipe(), DATA, fresh=False) == []
    assert open_run(out, recipe(), DATA, fresh=False) == []


LOST = ["", "[]", "3", '{"recipe": ', None]


def lose_notes(out, text):
    (out / "run.json").unlink() if text is None else (out / "run.json").write_text(text)


@pytest.mark.parametrize("text", LOST)
def test_a_run_without_notes_is_noticed(text, out, recipe, tmp_path):
    lose_notes(out, text)
    for begin in (
        lambda: enter_run_folder(str(out), load_recipe(tmp_path / "recipe.yaml"), fresh=False),
        lambda: open_run(out, recipe(), DATA, fresh=False),
    ):
        with pytest.raises(UserError, match="run.json, which says of which recipe and data, is missing or damaged"):
            begin()
    (notice,) = open_run(out, recipe(), DATA, fresh=True)
    assert "the earlier run is in" in notice


@pytest.mark.parametrize("text", LOST)
def test_lost_notes_are_written_anew_from_checkpoints(text, out, recipe, tmp_path):
    write_provenance(out / "checkpoint-4", {"recipe": recipe(), "data": DATA}, 4)
    lose_notes(out, text)
    enter_run_folder(str(out), load_recipe(tmp_path / "recipe.yaml"), fresh=False)
    (notice,) = open_run(out, recipe(), DATA, fresh=False)
    assert notice == f"{out / 'run.json'} was lost; it is written anew from what the checkpoints say"
    assert json.loads((out / "run.json").read_text())["conversations"] == DATA
    lose_notes(out, text)
    with pytest.raises(UserError, match=r"checkpoint-4 in .* comes from another run \(lora.r: 128 -> 64\)"):
        enter_run_folder(str(out), load_recipe(tmp_path / "recipe.yaml", ["lora.r=64"]), fresh=False)


@pytest.mark.parametrize(
    ("change", "data", "difference"),
    [(["lora.r=64"], DATA, "lora.r: 64 -> 128"), ([], {**DATA, "train": "zz"}, "media of data.train are others")],
)
def test_a_checkpoint_of_another_run_is_noticed(change, data, difference, out, recipe):
    write_provenance(out / "checkpoint-4", {"recipe": recipe(), "data": DATA}, 4)
    assert open_run(out, recipe(), DATA, fresh=False) == []
    (out / "checkpoint-9").mkdir()  # copied in
    write_provenance(out / "checkpoint-9", {"recipe": recipe(*change), "data": data}, 9)
    with pytest.raises(UserError, match=f"checkpoint-9 in .* comes from another run .*{difference}.*move it away"):
        open_run(out, recipe(), DATA, fresh=False)


def test_what_cannot_change_the_weights_may_change(out, recipe):
    open_run(out, recipe(), DATA, fresh=False)
    harmless = ["resume=never", "training.save_steps=7", "training.logging_steps=1", "training.output_dir=elsewhere",
                "training.dataloader_num_workers=3", "data.train=[{path: moved/train.json}]",
                "data.frame_cache=frames", "data.frame_cache_gib=2.0", "data.feature_cache=features",
                "data.on_bad_media=fail", "data.max_bad_media=0.5", "data.decode_seconds=9.0"]  # fmt: skip
    assert open_run(out, recipe(*harmless), DATA, fresh=False) == []


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("training.learning_rate=3e-4", "training.learning_rate: 0.0001 -> 0.0003"),
        ("training.max_steps=7", "training.max_steps: None -> 7"),
        ("lora.r=64", "lora.r: 128 -> 64"),
        ("data.rows_per_step=3", "data.rows_per_step: 16 -> 3"),
        ("model.name_or_path=other", "model.name_or_path: base -> other"),
        ("data.train=[{path: train.json, weight: 0.5}]", r"data.weights: None -> \[0.5\]"),
    ],
)
def test_another_recipe_is_refused_with_the_difference(override, difference, out, recipe):
    open_run(out, recipe(), DATA, fresh=False)
    before = (out / "run.json").read_text()
    with pytest.raises(UserError, match=f"has a run of another recipe \\({difference}\\).*--fresh"):
        open_run(out, recipe(override), DATA, fresh=False)
    assert (out / "run.json").read_text() == before


def test_another_recipe_is_refused_before_data_are_read(out, recipe, tmp_path):
    open_run(out, recipe(), DATA, fresh=False)
    same, other = (load_recipe(tmp_path / "recipe.yaml", change) for change in ([], ["lora.r=64"]))
    with pytest.raises(UserError, match=r"has a run of another recipe \(lora.r: 128 -> 64\)"):
        enter_run_folder(str(out), other, fresh=False)
    enter_run_folder(str(out), same, fresh=False)
    enter_run_folder(str(out), other, fresh=True)
    assert not (out / "earlier-1").exists()  # nothing is moved before the data are known to be good


def test_all_differences_are_shown(recipe):
    before, now = what_matters(recipe()), what_matters(recipe("lora=null", "model.trainable=all", "data.max_length=99"))
    shown = changed_values(before, now)
    assert [difference.split(":")[0] for difference in shown] == ["model.trainable", "lora", "data.max_length"]


def test_other_data_are_refused(out, recipe):
    open_run(out, recipe(), DATA, fresh=False)
    with pytest.raises(UserError, match="the conversations or media of data.train are others"):
        open_run(out, recipe(), {**DATA, "train": "ab"}, fresh=False)


def test_a_folder_without_anything_to_lose_takes_any_recipe(out, recipe):
    open_run(out, recipe(), DATA, fresh=False)
    (out / "checkpoint-4").rmdir()
    assert open_run(out, recipe("lora.r=8"), DATA, fresh=False) == []
    (out / "adapter_model.safetensors").write_text("a result")
    with pytest.raises(UserError, match="lora.r: 8 -> 4"):
        open_run(out, recipe("lora.r=4"), DATA, fresh=False)


def test_fresh_moves_the_earlier_run(out, recipe):
    open_run(out, recipe(), DATA, fresh=False)
    (notice,) = open_run(out, recipe("lora.r=8"), DATA, fresh=True)
    assert notice == f"the earlier run is in {out / 'earlier-1'}"
    assert sorted(path.name for path in out.iterdir()) == ["earlier-1", "run.json"]
    assert sorted(path.name for path in (out / "earlier-1").iterdir()) == ["checkpoint-4", "metrics.jsonl", "run.json"]
    (out / "checkpoint-2").mkdir()
    open_run(out, recipe("lora.r=9"), DATA, fresh=True)
    assert json.loads((out / "earlier-2" / "run.json").read_text())["recipe"]["lora"]["r"] == 8


@pytest.fixture
def other_process(out):
    def hold(held):
        lock_folder(out)
        held.set()
        time.sleep(600)

    context = multiprocessing.get_context("fork")
    held = context.Event()
    process = context.Process(target=hold, args=(held,))
    process.start()
    assert held.wait(60)
    yield process
    process.kill()
    process.join()


def test_a_second_run_is_refused_until_the_first_is_gone(other_process, out):
    with pytest.raises(UserError, match=rf"another run is training into {out} \(process {other_process.pid} on "):
        lock_folder(out)
    other_process.kill()
    other_process.join()
    lock_folder(out)
    lock_folder(out)  # its own


@pytest.mark.parametrize("path", ["/proc/reeltune", "/dev/null/out"])
def test_a_folder_that_cannot_be_written_is_named(path, tmp_path, recipe):
    loaded = load_recipe(tmp_path / "recipe.yaml", [])
    with pytest.raises(UserError, match=f"training.output_dir: cannot write {path}: "):
        start_run(path, loaded, DATA, fresh=False)


@pytest.mark.parametrize("key", ["training.output_dir", "data.frame_cache", "data.feature_cache"])
@pytest.mark.parametrize("path", ["/dev/null", "/dev/null/out", "a" * 256])
def test_a_folder_that_cannot_be_made_is_told_before_data_are_read(key, path, tmp_path, recipe):
    loaded = load_recipe(tmp_path / "recipe.yaml", [f"{key}={path}"])
    with pytest.raises(UserError, match=f"^{key}: cannot write .*(Not a directory; a file|File name too long; take a)"):
        enter_run_folder(loaded.training["output_dir"], loaded, fresh=False)


def test_no_folder_is_made_before_data_are_read(tmp_path, recipe):
    enter_run_folder(str(tmp_path / "out"), load_recipe(tmp_path / "recipe.yaml", []), fresh=False)
    assert not (tmp_path / "out").exists()


def test_the_folder_of_another_run_is_refused_before_data_are_read(other_process, out, recipe, tmp_path):
    with pytest.raises(UserError, match=f"another run is training into {out}"):
        enter_run_folder(str(out), load_recipe(tmp_path / "recipe.yaml", []), fresh=False)


def test_a_checkpoint_that_resume_names_must_be_of_this_run(tmp_path, recipe):
    folder = tmp_path / "elsewhere" / "checkpoint-4"
    folder.mkdir(parents=True)
    (folder / "optimizer.pt").touch()
    write_provenance(folder, {"recipe": recipe(), "data": DATA}, 4)
    seal(folder)

    def begin(data, *changes):
        run = load_recipe(tmp_path / "recipe.yaml", [f"resume={folder}", *changes])
        enter_run_folder(str(tmp_path / "out"), run, fresh=False)
        return start_run(str(tmp_path / "out"), run, data, False)

    with pytest.raises(UserError, match=r"^resume: .*checkpoint-4 comes from another run \(lora.r: 128 -> 64\)"):
        begin(DATA, "lora.r=64")
    with pytest.raises(
        UserError, match=r"checkpoint-4 comes from another run \(the conversations or media of data.train"
    ):
        begin({**DATA, "train": "zz"})
    assert not (tmp_path / "out" / "run.json").exists()
    assert begin(DATA) == (str(folder), [])
