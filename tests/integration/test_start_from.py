"""An adapter that is trained on, on other data: exact at its beginning, of its own kind, continued like any run."""

import json
import shutil
from collections import Counter

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from data.errors import UserError, UserErrors
from tests.short_run import metrics, result, write_recipe
from tests.tiny_adapters import keep_result, random_adapter, save_adapter
from train.commands.app import run
from train.estimating.need import Need
from train.jobs import estimate as jobs_estimate
from train.merging.merge import merge_adapter
from train.model.load import load_model
from train.recipe.load import load_recipe
from train.sft import main
from train.start.adopted import as_adopted, continue_adapter
from train.start.trainable import load_trainable

IDS = torch.tensor([[1, 40, 50, 60, 70, 80, 90, 100]])
KINDS = {
    "plain": {},
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True, "target": "decoder+projector"},
    "projector": {"modules_to_save": ["multi_modal_projector"]},
    "some layers": {"target": r".*language_model\.layers\.[12]\..*(q|v)_proj"},
    "pissa": {"init_lora_weights": "pissa"},
}


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=IDS).logits


@pytest.fixture
def recipe_of(model_folder, mixed_file, tmp_path):
    """Return a recipe that continues an adapter, and says no more about it than it is given."""

    def write(adapter, *overrides, **lora):
        path = write_recipe(tmp_path, model_folder, mixed_file, {}, {}, {"max_steps": 2, "save_strategy": "no"})
        text = json.dumps({"start_from": str(adapter), **lora})
        return load_recipe(path, [f"lora={text}", *overrides])

    return write


@pytest.mark.parametrize("quantization", [None, "nf4"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_begins_where_the_adapter_ended(kind, quantization, model_folder, recipe_of, tmp_path):
    adapter = save_adapter(model_folder, tmp_path / "adapter", quantization, **KINDS[kind])
    overrides = [f"model.quantization={quantization}"] if quantization else []
    recipe, earlier, notices = continue_adapter(recipe_of(adapter, *overrides, dropout=0.3), fresh=False)
    assert "has no fingerprint" in notices[0] and recipe.adapter()["dropout"] == 0.3
    model = load_trainable(recipe.model.loading(), recipe.adapter(), None, 0, earlier.artifact)
    base = load_model(str(model_folder), quantization=quantization)
    untouched = logits(base)
    wanted = logits(PeftModel.from_pretrained(base, adapter))
    assert (wanted - untouched).abs().max() > 0.1
    assert (logits(model) - wanted).abs().max() <= 1e-6

    fresh = random_adapter(model_folder, quantization, **KINDS[kind])
    trained, of_new = ({n for n, p in each.named_parameters() if p.requires_grad} for each in (model, fresh))
    assert trained == of_new
    again, *_ = continue_adapter(recipe, fresh=False)  # the resolved recipe, as output_dir/recipe.yaml has it
    assert again == recipe
    recipe.write(tmp_path / "resolved.yaml")
    assert load_recipe(tmp_path / "resolved.yaml") == recipe


def test_what_contradicts_the_adapter_is_said_all_together_before_a_weight_is_loaded(
    model_folder, recipe_of, tmp_path, monkeypatch
):
    adapter = save_adapter(model_folder, tmp_path / "adapter", modules_to_save=["multi_modal_projector"])
    lora = {"r": 16, "alpha": 8, "target": "decoder+projector", "use_dora": True, "init_lora_weights": "olora"}
    with pytest.raises(UserErrors) as caught:
        continue_adapter(recipe_of(adapter, **lora, modules_to_save=["lm_head"], bias="lora_only"), fresh=False)
    assert [line.split(": ")[0] for line in caught.value.lines] == [
        *("lora.r", "lora.target", "lora.modules_to_save", "lora.use_dora", "lora.init_lora_weights", "lora.bias")
    ]
    assert caught.value.lines[0] == f"lora.r: 16 contradicts {adapter}, which has 4; remove it"
    agreeing = {"r": 4, "alpha": 8, "target": "decoder", "modules_to_save": ["multi_modal_projector"]}
    assert continue_adapter(recipe_of(adapter, **agreeing, init_lora_weights=True), fresh=False)[1] is not None


def test_rules_hold_for_what_the_adapter_says(model_folder, recipe_of, tmp_path):
    adapter = save_adapter(model_folder, tmp_path / "adapter", use_dora=True)
    with pytest.raises(UserError, match=r"lora.use_dora: DoRA reads the scales .*\(lora.start_from: .*adapter\)"):
        continue_adapter(recipe_of(adapter, "model.quantization=int8"), fresh=False)
    with pytest.raises(UserError, match=r"model.projector_learning_rate: no projector is trained"):
        continue_adapter(recipe_of(adapter, "model.projector_learning_rate=0.1"), fresh=False)
    projector = save_adapter(model_folder, tmp_path / "projector", modules_to_save=["multi_modal_projector"])
    continue_adapter(recipe_of(projector, "model.projector_learning_rate=0.1"), fresh=False)


def change(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_what_cannot_be_continued_is_one_line(model_folder, processor, recipe_of, tmp_path):
    good = keep_result(random_adapter(model_folder), model_folder, tmp_path / "good", processor)

    def damaged(name):
        return shutil.copytree(good, tmp_path / name)

    weights = load_file(good / "adapter_model.safetensors")
    (edited := damaged("edited") / "adapter_model.safetensors").unlink()
    save_file({name: 2 * value for name, value in weights.items()}, edited)
    change(damaged("settings") / "adapter_config.json", lora_alpha=99)
    for name, values in {
        "residual": {"init_lora_weights": "pissa_niter_4"},
        "biases": {"bias": "all"},
        "wider": {"r": 8},
        "code": {"auto_map": {"AutoModel": "evil.Model"}},
    }.items():
        change(damaged(name) / "adapter_config.json", **values)
        (tmp_path / name / "fingerprint.safetensors").unlink()
    (pickle := damaged("pickle") / "adapter_model.safetensors").rename(pickle.with_suffix(".bin"))
    (tmp_path / "empty").mkdir()
    for name, words in {
        "edited": "adapter_model.safetensors of .*edited is not as training saved it",
        "settings": "adapter_config.json of .*settings is not as training saved it",
        "residual": "made with init_lora_weights: 'pissa_niter_4', which takes a part out of the base's weights",
        "biases": "trains the towers' biases too",
        "wider": r"does not fit .*: 28 of its matrices .* such as base_model.*: \(4, \d+\) instead of \(8, \d+\)",
        "code": "no code of an adapter is ever run",
        "pickle": "has no adapter_model.safetensors",
        "empty": "an empty folder",
        "nowhere": "lora.start_from: no such folder, and no such adapter on the hub or in its cache",
    }.items():
        with pytest.raises(UserError, match=words) as caught:
            continue_adapter(recipe_of(tmp_path / name), fresh=False)
        assert str(caught.value).count("\n") == 0
    with pytest.raises(UserError, match="is a full model, not an adapter; give it as model.name_or_path"):
        continue_adapter(recipe_of(model_folder), fresh=False)
    with pytest.raises(UserError, match="is in the folder that training writes into"):
        continue_adapter(recipe_of(good, f"training.output_dir={good}"), fresh=True)


def test_another_base_is_refused_by_its_weights(model_folder, processor, recipe_of, tmp_path):
    adapter = keep_result(random_adapter(model_folder), model_folder, tmp_path / "good", processor)
    other = shutil.copytree(model_folder, tmp_path / "moved")
    assert continue_adapter(recipe_of(adapter, f"model.name_or_path={other}"), fresh=False)[2] == []
    weights = load_file(other / "model.safetensors")
    first = min(weights)
    save_file({**weights, first: weights[first] + 1}, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="was trained on another base than model.name_or_path: .*moved"):
        continue_adapter(recipe_of(adapter, f"model.name_or_path={other}"), fresh=False)


def test_an_adapter_as_model_names_the_key(model_folder, recipe_of, tmp_path):
    adapter = save_adapter(model_folder, tmp_path / "adapter")
    with pytest.raises(UserError) as caught:
        main([str(tmp_path / "recipe.yaml") if recipe_of(adapter) else "", f"model.name_or_path={adapter}"])
    assert str(caught.value) == (
        f"model.name_or_path: {adapter} is an adapter, and no model; to train it on, give its base here "
        f"({model_folder}) and the adapter as lora.start_from"
    )


def test_ten_steps_and_ten_more(model_folder, mixed_file, tmp_path):
    """The second run, on other data: another folder, another optimizer, and no need of the first one to continue."""
    other, out = tmp_path / "other.json", tmp_path / "second"
    other.write_text(json.dumps(json.loads(mixed_file.read_text())[:6]))
    training = {"max_steps": 10, "learning_rate": 1e-2, "save_steps": 5, "save_total_limit": 9, "logging_steps": 1}
    recipe = write_recipe(tmp_path, model_folder, mixed_file, {"dropout": 0.1, "use_rslora": True}, {}, training)
    main([str(recipe)])
    first, before = tmp_path / "out", result(tmp_path / "out")
    again = [f"data.train=[{{path: {other}}}]", f"lora={{start_from: {first}}}", f"training.output_dir={out}"]
    main([str(recipe), *again])
    assert result(first) == before and result(out) != before
    losses, earlier = ([loss for _, loss in metrics(folder, "loss")] for folder in (out, first))
    assert len(losses) == 10 and losses[0] < 0.6 * earlier[0] and losses[-1] < losses[0]
    kept = json.loads((out / "provenance.json").read_text())["recipe"]["lora"]
    assert (kept["start_from"], kept["use_rslora"], kept["dropout"]) == (str(first), True, 0.1)
    merge_adapter(str(out), tmp_path / "merged", report=lambda line: None)

    unbroken = result(out)
    (out / "adapter_model.safetensors").unlink()
    (out / "checkpoint-10" / "manifest.json").unlink()  # so that the run continues from the other one
    first.rename(tmp_path / "gone")
    main([str(recipe), *again])
    assert result(out) == unbroken
    shutil.copytree(tmp_path / "gone" / "checkpoint-5", first)
    with pytest.raises(UserError, match=r"run of another recipe \(the adapter that it begins with \(lora.start_from\)"):
        main([str(recipe), *again])
    (first / "adapter_config.json").unlink()
    with pytest.raises(UserError, match="lora.start_from: .*out is no adapter|neither an adapter nor a model"):
        main([str(recipe), *again])


def test_an_adapter_of_the_hub_is_that_of_its_revision(model_folder, processor, recipe_of, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    repository = tmp_path / "cache" / "models--me--adapter"
    (repository / "refs").mkdir(parents=True)
    commits = {"main": "1" * 40, "second": "2" * 40}
    for name, commit in commits.items():
        model = random_adapter(model_folder, use_rslora=name == "second")
        keep_result(model, model_folder, repository / "snapshots" / commit, processor)
        (repository / "refs" / name).write_text(commit)
    digests = {}
    for name, commit in commits.items():
        revision = {} if name == "main" else {"start_revision": name}
        recipe, earlier, notices = continue_adapter(recipe_of("me/adapter", **revision), fresh=False)
        assert recipe.lora.use_rslora is (name == "second") and notices == []
        assert earlier.artifact.adapter_weights.parent.name == commit
        digests[name] = earlier.digest
    assert digests["main"] != digests["second"]


def test_who_looks_at_the_recipe_before_sees_what_is_trained(
    model_folder, recipe_of, processor, tmp_path, monkeypatch, capsys
):
    adapter = keep_result(random_adapter(model_folder), model_folder, tmp_path / "adapter", processor)
    recipe = recipe_of(adapter)
    assert as_adopted(recipe) == continue_adapter(recipe, fresh=False)[0]
    ranks, need = [], Need(Counter(), 0, False, Counter(), 0, 1, 1, 1)
    monkeypatch.setattr(jobs_estimate, "count", lambda tried, situation: ranks.append(tried.lora.r) or need)
    path, start = tmp_path / "recipe.yaml", f'lora={{"start_from": "{adapter}"}}'
    run(["estimate", str(path), start, "--gpu", "24GB", "--questions", "2"])
    assert set(ranks) == {4}
    capsys.readouterr()
    for command in (["check", str(path)], ["preview", str(path), "--out", str(tmp_path / "page.html")]):
        with pytest.raises(SystemExit):
            run([*command, 'lora={"start_from": "nowhere"}'])
        assert "lora.start_from: no such folder" in capsys.readouterr().err
