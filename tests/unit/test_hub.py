import json
import re
import threading
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard, close_session
from safetensors.torch import load_file, save_file

from data.errors import UserError
from tests.hub_stand_in import TOKEN, standing_in
from tests.safety.kills import killed
from tests.tiny_adapters import keep_result, random_adapter, save_adapter
from train.card.cleaned import last_name, without_secrets
from train.commands.app import run as reeltune
from train.preprocessing.contract import preprocessing_of, write_preprocessing
from train.recipe.recipe import Data
from train.recipe.yaml_text import read_recipe, to_yaml
from train.results.artifact import open_artifact
from train.results.hub import collect, push_to_hub


@pytest.fixture
def run(model_folder, processor, tmp_path):
    """An output folder of training, with everything in it that must not be sent."""
    folder = save_adapter(model_folder, tmp_path / "run")
    processor.save_pretrained(folder)
    recipe = {
        "model": {"name_or_path": str(model_folder), "quantization": "nf4"},
        "lora": {"r": 4},
        "data": {"train": [{"path": str(tmp_path / "clips" / "train.json"), "media_root": "clips/"}], "num_frames": 6},
        "training": {"output_dir": str(folder), "learning_rate": 2.0e-4, "hub_token": TOKEN, "run_name": TOKEN},
    }
    (folder / "recipe.yaml").write_text(to_yaml(recipe))
    data = Data(train=[{"path": "train.json"}], num_frames=6, system_prompt=f"My key is {TOKEN}.")
    write_preprocessing(folder, preprocessing_of(processor, data))
    (folder / "checkpoint-40").mkdir()
    for name in ("checkpoint-40/optimizer.pt", "training_args.bin", "metrics.jsonl", "events.out.tfevents.1", ".netrc"):
        (folder / name).write_text(TOKEN)
    return folder


SENT_OF_AN_ADAPTER = {
    "preprocessing.json",
    *("adapter_config.json", "adapter_model.safetensors", "README.md", "recipe.yaml"),
    *("processor_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
}


@pytest.fixture
def hub(monkeypatch):
    with standing_in(monkeypatch) as server:
        yield server


@pytest.fixture
def command(capsys, monkeypatch):
    """Runs `reeltune push` with its arguments, perhaps with another token; returns what it printed, and its status."""

    def call(*arguments, token=TOKEN) -> SimpleNamespace:
        monkeypatch.setenv("HF_TOKEN", token)
        capsys.readouterr()
        status = 0
        try:
            reeltune(["push", *map(str, arguments)])
        except SystemExit as end:
            status = end.code
        printed = capsys.readouterr()
        return SimpleNamespace(returncode=status, stdout=printed.out, stderr=printed.err)

    return call


def test_a_private_repository_gets_what_belongs_to_the_model_and_nothing_else(
    run, hub, model_folder, command, tmp_path
):
    done = command(run, "me/my-model")
    assert done.returncode == 0, done.stderr
    (name,) = hub.tags["me/my-model"]
    assert done.stdout == f"sent: {hub.address}/me/my-model/commit/{'0' * 40}, tag {name}\n"
    assert re.fullmatch("weights-[0-9a-f]{8}", name) and hub.tags["me/my-model"][name] == hub.files["me/my-model"]
    assert hub.private == {"me/my-model": True} and hub.commits == 1
    files = hub.files["me/my-model"]
    assert files.keys() == SENT_OF_AN_ADAPTER
    assert files["adapter_model.safetensors"] == (run / "adapter_model.safetensors").read_bytes()
    for name, content in files.items():
        assert TOKEN.encode() not in content, name
        assert str(tmp_path).encode() not in content and str(model_folder.parent).encode() not in content, name

    received = tmp_path / "received"
    received.mkdir()
    for name, content in files.items():
        (received / name).write_bytes(content)
    artifact = open_artifact(str(received), base=str(model_folder))
    assert artifact.is_adapter and artifact.num_frames == 6


def test_the_hub_s_refusals_are_one_line(run, hub, command):
    hub.private["me/public"] = False
    for repo, token, words in [
        ("me/my-model", "hf_" + "wrong" * 7, "401"),
        ("others/my-model", TOKEN, "403"),
        ("me/public", TOKEN, "me/public exists already and is public; pass --public"),
    ]:
        done = command(run, repo, token=token)
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and words in done.stderr
        assert token not in done.stderr
    assert hub.commits == 0


def test_dry_run_lists_files_and_card_without_network_or_token(run, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    lines = []
    push_to_hub(run, "me/my-model", dry_run=True, report=lines.append)
    head, *told, total, card = lines
    assert re.fullmatch(r"me/my-model \(private\), tag weights-[0-9a-f]{8}:", head)
    sizes = {line.split()[2]: int(line.split()[0].replace(",", "")) for line in told}
    assert sizes.keys() == SENT_OF_AN_ADAPTER and int(total.split()[0].replace(",", "")) == sum(sizes.values())
    assert sizes["adapter_model.safetensors"] == (run / "adapter_model.safetensors").stat().st_size
    assert sizes["README.md"] == len(card.removeprefix("\n").encode())


def test_card_of_an_adapter(run):
    card = ModelCard(collect(run, "me/my-model", base="owner/base")["README.md"].decode())
    assert card.data.to_dict() == {
        "base_model": "owner/base",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "pipeline_tag": "video-text-to-text",
        "tags": ["video-llava", "reeltune", "lora", "qlora"],
    }
    for words in ("learning_rate: 0.0002", "Data: train.json.", 'PeftModel.from_pretrained(model, "me/my-model")'):
        assert words in card.text
    assert "range(6)" in card.text


def test_card_of_a_full_model_from_a_local_base_names_no_base_on_the_hub(model_folder, tmp_path):
    files = collect(model_folder, "me/full")
    assert {"model.safetensors", "config.json", "generation_config.json"} < files.keys()
    card = ModelCard(files["README.md"].decode())
    assert card.data.library_name == "transformers" and card.data.base_model is None
    assert "peft" not in card.text and 'VideoLlavaForConditionalGeneration.from_pretrained("me/full"' in card.text


def test_base_replaces_a_local_folder_in_the_adapter(run, model_folder):
    def named(base):
        return json.loads(collect(run, "me/x", base)["adapter_config.json"])["base_model_name_or_path"]

    assert named(None) == model_folder.name
    assert named("owner/base") == "owner/base"
    assert json.loads((run / "adapter_config.json").read_text())["base_model_name_or_path"] == str(model_folder)


def test_a_recipe_keeps_all_but_paths_and_secrets(run):
    recipe = read_recipe(run / "recipe.yaml")
    assert without_secrets(recipe) == {
        "model": {"name_or_path": recipe["model"]["name_or_path"].split("/")[-1], "quantization": "nf4"},
        "lora": {"r": 4},
        "data": {"train": [{"path": "train.json", "media_root": "clips/"}], "num_frames": 6},
        "training": {"output_dir": "run", "learning_rate": 2.0e-4, "run_name": "(removed)"},
    }


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("/home/me/clips/train.json", "train.json"),
        ("/home/me/clips/", "clips"),
        ("~/clips", "clips"),
        (r"C:\Users\me\train.json", "train.json"),
        ("clips/train.json", "clips/train.json"),
        ("LanguageBind/Video-LLaVA-7B-hf", "LanguageBind/Video-LLaVA-7B-hf"),
        ("Answer\n/briefly", "Answer\n/briefly"),
    ],
)
def test_last_name(text, kept):
    assert last_name(text) == kept


def test_refused_before_anything_is_sent(run, tmp_path, monkeypatch):
    (empty := tmp_path / "empty").mkdir()
    monkeypatch.setattr("train.results.hub.get_token", lambda: None)
    with pytest.raises(UserError, match="no token for the hub: run `hf auth login`"):
        push_to_hub(run, "me/my-model")
    monkeypatch.setattr("train.results.hub.get_token", lambda: TOKEN)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        push_to_hub(run, "me/my-model")
    with pytest.raises(UserError, match="'me/my/model' is no name for a hub repository"):
        push_to_hub(run, "me/my/model")
    with pytest.raises(UserError, match="neither an adapter nor a model: an empty folder"):
        push_to_hub(empty, "me/my-model")
    with pytest.raises(UserError, match="no such folder"):
        push_to_hub(tmp_path / "nowhere", "me/my-model")
    (run / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match="lacks adapter_model.safetensors"):
        push_to_hub(run, "me/my-model")


def test_pushes_killed_at_any_request_leave_no_half_and_the_next_completes(run, hub, command):
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    for moment in ("/api/repos/create", "/preupload/", "/info/lfs/", "/lfs/", "/commit/"):
        killed_at(moment, run, hub)
        assert hub.files.get("me/my-model", {}).keys() in (set(), SENT_OF_AN_ADAPTER)
    hub.watch = lambda path: None
    assert {path: path.read_bytes() for path in run.iterdir() if path.is_file()} == before
    done = command(run, "me/my-model")
    assert done.returncode == 0, done.stderr
    assert hub.files["me/my-model"].keys() == SENT_OF_AN_ADAPTER


def killed_at(moment, run, hub):
    """Send `run`, and kill the sender while the hub has not yet answered its request at `moment`."""
    reached, gone = threading.Event(), threading.Event()

    def watch(path):
        if moment in path and not reached.is_set():
            reached.set()
            gone.wait(60)

    def send():
        close_session()  # this process's connections
        reeltune(["push", str(run), "me/my-model"])

    hub.watch = watch
    assert killed(send, reached.is_set)
    gone.set()


def test_an_adapter_whose_weights_are_not_those_of_training_is_not_sent(model_folder, processor, tmp_path):
    folder = keep_result(random_adapter(model_folder), model_folder, tmp_path / "run", processor)
    assert "fingerprint.safetensors" in collect(folder, "me/my-model")
    save_adapter(model_folder, tmp_path / "other", use_rslora=True)
    weights = load_file(tmp_path / "other" / "adapter_model.safetensors")
    save_file({name: 2 * weight for name, weight in weights.items()}, folder / "adapter_model.safetensors")
    with pytest.raises(UserError, match="adapter_model.safetensors is not the file that training saved"):
        collect(folder, "me/my-model")


def test_what_has_arrived_is_not_sent_twice(run, hub, command):
    killed_at("/commit/", run, hub)
    assert hub.commits == 0 and hub.uploaded
    hub.uploads.clear()
    hub.watch = lambda path: None
    assert command(run, "me/my-model").returncode == 0
    assert hub.uploads == [] and hub.files["me/my-model"].keys() == SENT_OF_AN_ADAPTER


def test_a_connection_that_breaks_says_what_to_do(run, hub, command, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's tries
    hub.broken = "/lfs/"
    done = command(run, "me/my-model")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "give the same command again: files that have arrived are not sent twice" in done.stderr
    assert hub.commits == 0


def test_a_branch_and_a_tag_of_one_s_own(run, hub, command):
    done = command(run, "me/my-model", "--revision", "try-2", "--tag", "v1.0")
    assert done.returncode == 0 and done.stdout.endswith(", tag v1.0\n"), done.stderr
    assert hub.files["me/my-model@try-2"].keys() == SENT_OF_AN_ADAPTER and "me/my-model" not in hub.files
    done = command(run, "me/my-model", "--tag", "v1.0")
    assert done.returncode == 2 and "--tag: me/my-model has a tag v1.0 already; give another one" in done.stderr
    assert hub.commits == 1
    assert command(run, "me/my-model").returncode == command(run, "me/my-model").returncode == 0  # the run's own tag
    for option, name in (("--tag", "a b"), ("--tag", "-x"), ("--revision", "../x"), ("--tag", "x.lock")):
        done = command(run, "me/my-model", f"{option}={name}")
        assert done.returncode == 2 and f"{option}: {name!r} is no name for it" in done.stderr


def test_scores_of_the_last_evaluation_are_metrics_of_the_card(run):
    (run / "provenance.json").write_text(json.dumps({"step": 40}))
    for step, accuracy in ((0, 0.1), (40, 0.75), (80, 0.9)):  # what is behind step 40 is of a run that was put aside
        folder = run / "evaluations" / str(step)
        folder.mkdir(parents=True)
        part = {"accuracy": accuracy, "questions": 200, "metric": "accept"}
        other = {"accuracy": 0.5, "questions": 8, "metric": None}
        sources = {"/home/me/val.json": part, "more.json": other, "bad": {"accuracy": None, "questions": 0}}
        (folder / "scores.json").write_text(json.dumps({"step": step, "sources": sources}))
        (folder / "val.jsonl").write_text(TOKEN)
    files = collect(run, "me/my-model")
    assert files.keys() == SENT_OF_AN_ADAPTER
    card = ModelCard(files["README.md"].decode())
    found = [
        (each.dataset_name, each.metric_type, each.metric_name, each.metric_value) for each in card.data.eval_results
    ]
    assert found == [
        ("val.json", "accuracy", "accept of 200 answers after step 40", 0.75),
        ("more.json", "accuracy", "accuracy of 8 answers after step 40", 0.5),
    ]
    assert "| val.json | accept | 75.0% | 200 |" in card.text and "/home/me" not in card.content
    (run / "evaluations" / "40" / "scores.json").write_text("{")
    assert ModelCard(collect(run, "me/my-model")["README.md"].decode()).data.eval_results is None


def test_a_key_in_any_file_of_words_is_not_sent(run):
    template = run / "chat_template.jinja"
    template.write_text(template.read_text() + "{# " + TOKEN + " #}")
    with pytest.raises(UserError, match="chat_template.jinja holds what looks like a key, hf_goo...; remove it"):
        collect(run, "me/my-model")
