"""The card's code, run as it stands, answers as `reeltune generate` does: for what was trained, and merged."""

import ast
import json
import re

import pytest
import yaml
from huggingface_hub import ModelCard

from data.media.reference import Media
from data.sources.conversation import with_system_prompt
from tests.short_run import write_recipe
from tests.tiny_data import turns
from train.answering.generation import answer
from train.card.facts import Facts
from train.card.model_card import make_card, write_card
from train.merging.merge import merge_adapter
from train.results.artifact import open_artifact
from train.results.loading import load
from train.sft import main

EVIL_PROMPT = 'Say "it\'s" in one\tword.\n```\n---\n# A heading {x} \\ `é` 你'
RECIPES = {
    "system prompt and 4 frames": {
        "data": {"system_prompt": EVIL_PROMPT, "num_frames": 4, "max_length": 700, "max_tokens_per_row": 700},
        "eval": True,
    },
    "pictures in 4 bits": {"model": {"quantization": "nf4"}, "pictures": True},
    "the decoder itself": {"model": {"trainable": "decoder"}, "lora": None, "data": {"num_frames": 2}},
}


def train(name, model_folder, media_folder, folder):
    chosen = RECIPES[name]
    kind, file = ("image", "picture0.png") if chosen.get("pictures") else ("video", "clip0.mp4")
    records = [{kind: str(media_folder / file), "conversations": turns(f"<{kind}>\nWhat?", "a small square")}]
    (folder / "secret-data.json").write_text(json.dumps(records))
    training = {"max_steps": 3, "learning_rate": 1e-2, "save_strategy": "no", "logging_steps": 1}
    evaluation = {}
    if chosen.get("eval"):
        evaluation = {"eval": [{"path": str(folder / "secret-data.json")}]}
        training |= {"eval_strategy": "steps", "eval_steps": 1, "eval_on_start": True}
    data = {**chosen.get("data", {}), **evaluation}
    path = write_recipe(folder, model_folder, folder / "secret-data.json", {}, data, training)
    recipe = yaml.safe_load(path.read_text())
    recipe["model"] |= chosen.get("model", {})
    recipe["lora"] = chosen.get("lora", {"r": 4, "alpha": 64})
    path.write_text(yaml.safe_dump(recipe))
    main([str(path)])
    return folder / "out"


def answer_of(folder, kind, path) -> str:
    artifact = open_artifact(str(folder))
    model, processor = load(artifact)
    question = "What is in the picture?" if kind == "image" else "What happens here?"
    messages = [{"role": "user", "content": [{"type": kind}, {"type": "text", "text": question}]}]
    prompt = with_system_prompt(messages, artifact.system_prompt), [Media(kind, str(path))]
    return answer(model, processor, [prompt], num_frames=artifact.num_frames, max_new_tokens=64)[0]


def run_code(card: ModelCard, names: dict[str, str], capsys) -> str:
    """Run the code, each name that it loads replaced by a folder or file of this machine."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", card.content, re.DOTALL | re.MULTILINE)
    for name, here in names.items():
        assert f'"{name}"' in code
        code = code.replace(f'"{name}"', f'"{here}"')
    capsys.readouterr()
    exec(code, {})
    return capsys.readouterr().out.strip()


@pytest.mark.parametrize("name", RECIPES)
def test_the_code_of_three_cards_answers_as_we_do(name, model_folder, media_folder, tmp_path, capsys):
    out = train(name, model_folder, media_folder, tmp_path)
    kind, file = ("image", "picture1.png") if "pictures" in name else ("video", "clip3.mp4")
    medium = {"image": "picture.jpg", "video": "clip.mp4"}[kind]
    card = ModelCard.load(out / "README.md")
    folders = {"out": out}
    if name != "the decoder itself":
        folders["path/to/the/base"] = model_folder
        merge_adapter(str(out), tmp_path / "merged", report=lambda line: None)
    path = media_folder / file
    said = run_code(card, {**folders, medium: path}, capsys)
    assert said == answer_of(out, kind, path) != ""
    if name != "the decoder itself":
        merged = ModelCard.load(tmp_path / "merged" / "README.md")
        assert run_code(merged, {"merged": tmp_path / "merged", medium: path}, capsys) == answer_of(
            tmp_path / "merged", kind, path
        )
        assert (merged.data.library_name, merged.data.pipeline_tag) == ("transformers", f"{kind}-text-to-text")
    assert card.data.library_name == ("transformers" if name == "the decoder itself" else "peft")
    assert card.data.pipeline_tag == f"{kind}-text-to-text"
    assert ("qlora" in card.data.tags) == ("4 bits" in name)
    assert str(tmp_path) not in card.content and str(media_folder) not in card.content
    counted = "1 conversation, 1 picture" if kind == "image" else "1 conversation, 1 clip"
    assert f"Data: secret-data.json ({counted})" in card.content
    if "system prompt" in name:
        assert re.search(r"\| before training \| \d\.\d+ \|\n\| after step 3 \| \d\.\d+ \|\n", card.content)
        (result,) = card.data.eval_results
        assert (result.metric_type, result.metric_name) == ("loss", "loss after step 3")


def test_what_the_card_says_of_frames_start_and_licence(model_folder, tmp_path):
    recipe = {
        "data": {"frame_sampling": "fps", "frames_per_second": 2.0, "num_frames": 16},
        "lora": {"start_from": "/home/me/first-run"},
        "model": {"name_or_path": "owner/base", "quantization": "nf4"},
    }
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "owner/base"}))
    card = ModelCard(make_card(tmp_path, "me/my-model", recipe=recipe))
    assert "Training took 2 frames a second from the middle of a clip, 16 at most" in card.text
    assert "Training went on from another adapter, first-run." in card.text
    assert (card.data.base_model, card.data.license) == ("owner/base", None)
    (base := tmp_path / "base").mkdir()
    (base / "README.md").write_text("---\nlicense: llama2\n---\nA model.")
    card = ModelCard(make_card(tmp_path, "me/my-model", base=str(base)))
    assert card.data.license == "llama2" and "The base's licence is llama2" in card.text
    for licence in ("[x](http://evil.org)", "a: b", "7", "x" * 100):
        (base / "README.md").write_text(f"---\nlicense: '{licence}'\n---\n")
        assert ModelCard(make_card(tmp_path, "me/m", base=str(base))).data.license in (None, "7")


@pytest.mark.parametrize("text", ['"', "'", "\"'", "```\n---\n", "\\", "{x}", "\u2028é\x00", "x" * 3000])
def test_no_system_prompt_breaks_the_card(text):
    card = ModelCard(write_card("me/my-model", Facts(True, "owner/base", {"data": {"system_prompt": text}})))
    (code,) = re.findall(r"^```python\n(.*?)^```$", card.content, re.DOTALL | re.MULTILINE)
    (said,) = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Assign) and "messages" in ast.unparse(
        node.targets[0])]  # fmt: skip
    assert ast.literal_eval(said.value)[0] == {"role": "system", "content": [{"type": "text", "text": text}]}
    assert card.data.base_model == "owner/base"
