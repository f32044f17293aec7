"""An adapter that begins at the base's weights, through the real commands: trained, continued, asked and merged."""

import json

import pytest
import yaml

from data.sources.conversation import read_conversations
from data.sources.source import Source
from tests.short_run import result, write_recipe
from tests.tiny_data import turns
from train.merging.merge import merge_adapter
from train.results.artifact import open_artifact
from train.results.evaluation import evaluate, questions_of
from train.results.loading import load
from train.sft import main


@pytest.fixture
def two_questions(media_folder, tmp_path):
    """A clip and a picture, the same question, two answers: only what is seen tells them apart."""
    records = [
        {"video": str(media_folder / "clip0.mp4"), "conversations": turns("<video>\nWhat is shown?", "a square")},
        {"image": str(media_folder / "picture0.png"), "conversations": turns("<image>\nWhat is shown?", "noise")},
    ]
    path = tmp_path / "two.json"
    path.write_text(json.dumps(records))
    return path


def share_right(folder, data_file) -> float:
    artifact = open_artifact(str(folder))
    questions = [q for each in read_conversations(Source(str(data_file))) for q in questions_of(each)]
    model, processor = load(artifact)
    return evaluate(model, processor, questions, num_frames=8, max_new_tokens=12)[1]["accuracy"]


@pytest.mark.parametrize("kind", ["pissa_niter_1", "olora"])
def test_what_was_trained_answers(kind, two_questions, model_folder, tmp_path):
    training = {"max_steps": 40, "learning_rate": 0.01, "save_steps": 20, "save_total_limit": 5, "logging_steps": 20}
    lora, data = {"alpha": 8, "init_lora_weights": kind}, {"feature_cache": str(tmp_path / "features")}
    recipe = write_recipe(tmp_path, model_folder, two_questions, lora, data, training)
    main([str(recipe)])
    out = tmp_path / "out"
    assert share_right(out, two_questions) == 1
    merge_adapter(str(out), tmp_path / "merged")
    assert share_right(tmp_path / "merged", two_questions) == 1
    assert json.loads((out / "adapter_config.json").read_text())["init_lora_weights"] is True

    unbroken = result(out)
    (out / "adapter_model.safetensors").unlink()
    (out / "checkpoint-40" / "manifest.json").unlink()  # so that the run continues from the other one
    main([str(recipe)])
    assert result(out) == unbroken
    assert yaml.safe_load((out / "recipe.yaml").read_text())["lora"]["r"] == 4
