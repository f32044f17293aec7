import logging
import os
import re
import sys
from unittest import mock

import pytest
import torch

from data.batches.pixels import PixelLoader
from data.media.reference import Media
from tests.tiny_adapters import save_adapter
from tests.warm import run_warm
from train.answering import generation
from train.answering.generation import answer
from train.commands import app
from train.commands.generate import generate
from train.merging.merge import merge_adapter
from train.recipe.yaml_text import to_yaml
from train.results.artifact import open_artifact
from train.results.hub import collect
from train.results.loading import load


def user(*parts):
    return {"role": "user", "content": [p if isinstance(p, dict) else {"type": "text", "text": p} for p in parts]}


def assistant(text):
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


IMAGE, VIDEO = {"type": "image"}, {"type": "video"}


@pytest.fixture
def prompts(media_folder):
    """Clips, pictures, both, none, one turn and two: of all lengths."""
    clips = [Media("video", str(media_folder / f"clip{n}.mp4")) for n in range(3)]
    pictures = [Media("image", str(media_folder / f"picture{n}.png")) for n in range(3)]
    return [
        ([user("Hello, how are you?")], []),
        ([user(VIDEO, "What colour is the shape?")], [clips[0]]),
        ([user(IMAGE, "Describe the picture.")], [pictures[0]]),
        ([user(VIDEO, "Which way does it move?")], [clips[1]]),
        ([user(IMAGE, VIDEO, "How do they differ?")], [pictures[1], clips[0]]),
        ([user(IMAGE, "Describe"), assistant("a red square"), user("And", VIDEO, "?")], [pictures[2], clips[2]]),
        ([user(IMAGE, IMAGE, "Compare these")], [pictures[0], pictures[2]]),
        ([user(VIDEO, "Which way?")], [clips[0]]),
    ]


@pytest.fixture(scope="module")
def adapter(model_folder, processor, tmp_path_factory):
    """Trained, as its recipe says, on clips of 4 frames behind a system text."""
    folder = save_adapter(model_folder, tmp_path_factory.mktemp("generate") / "adapter")
    processor.save_pretrained(folder)
    (folder / "recipe.yaml").write_text(to_yaml({"data": {"num_frames": 4, "system_prompt": "Describe"}}))
    return folder


@pytest.fixture(scope="module")
def loaded(adapter):
    return load(open_artifact(str(adapter)))


def test_a_mixed_batch_answers_as_each_prompt_alone(loaded, prompts):
    model, processor = loaded
    alone = [answer(model, processor, [prompt], num_frames=4, max_new_tokens=8)[0] for prompt in prompts]
    assert len(set(alone)) > len(prompts) // 2  # what a prompt shows matters
    for batch_size in (3, 8):
        assert answer(model, processor, prompts, num_frames=4, max_new_tokens=8, batch_size=batch_size) == alone


def test_greedy_by_hand_gives_the_same_answer_and_it_ends_at_eos(loaded, prompts, visual_tokens):
    """Return the most likely token, again and again, without cache, padding or generate()."""
    model, processor = loaded
    messages, media = prompts[4]
    pixels = PixelLoader(processor, 8)(media)
    ids = torch.tensor([generation.encode_prompt(messages, processor.tokenizer, visual_tokens).tolist()])
    length = ids.shape[1]
    with torch.inference_mode():
        for _ in range(6):
            best = model(input_ids=ids, **pixels, use_cache=False).logits[:, -1].argmax(-1)
            ids = torch.cat([ids, best[:, None]], dim=1)
    new = ids[0, length:].tolist()
    assert answer(model, processor, [(messages, media)], num_frames=8, max_new_tokens=6) == [_text(processor, new)]
    with mock.patch.object(model.generation_config, "eos_token_id", new[1]):
        ended = _text(processor, new[: new.index(new[1]) + 1])
        assert answer(model, processor, [(messages, media)], num_frames=8, max_new_tokens=6) == [ended]


def _text(processor, ids):
    return processor.decode(ids, skip_special_tokens=True).strip()


def test_a_clip_of_many_questions_is_decoded_once(loaded, media_folder, monkeypatch):
    decoded, decode = [], PixelLoader.decoded
    monkeypatch.setattr(PixelLoader, "decoded", lambda self, item: decoded.append(item) or decode(self, item))
    clips = [Media("video", str(media_folder / f"clip{n % 4}.mp4")) for n in range(12)]
    questions = [([user(VIDEO, "Describe" * (n + 1))], [clip]) for n, clip in enumerate(clips)]
    answer(*loaded, questions, num_frames=4, max_new_tokens=1, batch_size=1)
    assert sorted(item.path for item in decoded) == sorted(item.path for item in clips[:4])


def test_base_adapter_merged_and_4_bit_answer(adapter, model_folder, prompts, tmp_path):
    merge_adapter(str(adapter), tmp_path / "merged")
    answers = {}
    for name, path, quantization in [
        ("base", model_folder, None),
        ("adapter", adapter, None),
        ("merged", tmp_path / "merged", None),
        ("adapter nf4", adapter, "nf4"),
        ("merged nf4", tmp_path / "merged", "nf4"),
    ]:
        artifact = open_artifact(str(path))
        model, processor = load(artifact, quantization=quantization)
        answers[name] = answer(model, processor, prompts, num_frames=4, max_new_tokens=6)
        types = {n.split("language_model")[0]: p.dtype for n, p in model.named_parameters() if ".q_proj.weight" in n}
        assert any("tower" in name for name in types)
        for part, dtype in types.items():
            assert dtype == torch.float32 or (quantization and "tower" not in part), part
        assert artifact.num_frames == (8 if path == model_folder else 4)
    assert answers["adapter"] == answers["merged"] != answers["base"]
    assert answers["adapter nf4"] != answers["adapter"] and all(map(any, answers.values()))


def test_settings_of_a_foreign_generation_config_do_not_matter(
    model_folder, prompts, tmp_path, recwarn, caplog, monkeypatch
):
    model, processor = load(open_artifact(str(model_folder)))
    wanted = answer(model, processor, prompts[:2], num_frames=8, max_new_tokens=4)
    model.save_pretrained(tmp_path / "foreign")
    processor.save_pretrained(tmp_path / "foreign")
    (tmp_path / "foreign" / "generation_config.json").write_text(
        '{"temperature": 0.2, "top_p": 0.7, "max_length": 4, "eos_token_id": 32000, "pad_token_id": null}'
    )
    model, processor = load(open_artifact(str(tmp_path / "foreign")))
    recwarn.clear()
    caplog.clear()
    caplog.set_level("WARNING", logger="transformers")
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    assert answer(model, processor, prompts[:2], num_frames=8, max_new_tokens=4) == wanted
    assert not recwarn.list and not caplog.records


def run(capsys, *arguments):
    """Return (exit status, stdout, stderr) of scripts/generate.py in this process."""
    status = 0
    try:
        app.run(list(map(str, arguments)), "generate.py", generate)
    except SystemExit as end:
        status = end.code
    return status, *capsys.readouterr()


def test_command_line_answers_turn_by_turn(adapter, loaded, media_folder):
    clip, picture = media_folder / "clip0.mp4", media_folder / "picture0.png"
    command = f"scripts/generate.py {adapter} --video {clip} --image {picture} --max-new-tokens 5".split()
    questions = ["--prompt", "What colour is the shape?", "--prompt", "Which way?"]
    environment = {**os.environ, "PYTHONPATH": "."}
    done = run_warm([sys.executable, *command, *questions], capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and "Warning" not in done.stderr

    system = {"role": "system", "content": [{"type": "text", "text": "Describe"}]}
    media = [Media("video", str(clip)), Media("image", str(picture))]
    messages = [system, user(VIDEO, IMAGE, "What colour is the shape?")]
    (first,) = answer(*loaded, [(messages, media)], num_frames=4, max_new_tokens=5)
    messages += [assistant(first), user("Which way?")]
    (second,) = answer(*loaded, [(messages, media)], num_frames=4, max_new_tokens=5)
    assert done.stdout == f"{first}\n{second}\n"


def test_what_is_drawn_goes_by_the_seed(adapter, media_folder, capsys):
    command = [adapter, "--video", media_folder / "clip0.mp4", "--prompt", "What is it?", "--max-new-tokens", 6]

    def said(*more):
        status, printed, error = run(capsys, *command, *more)
        return printed if status == 0 else error

    drawn = said("--temperature", 3, "--top-p", 0.95, "--seed", 1)
    assert drawn == said("--temperature", 3, "--top-p", 0.95, "--seed", 1) != said()
    assert drawn != said("--temperature", 3, "--top-p", 0.95, "--seed", 2)
    assert said("--temperature", 0) == said()
    assert "--top-p: answers are greedy; give a --temperature" in said("--top-p", 0.5)


def test_errors_are_one_line_and_status_2(adapter, model_folder, media_folder, tmp_path, capsys):
    clip, picture = media_folder / "clip0.mp4", media_folder / "picture0.png"
    for arguments, words in [
        ([tmp_path, "--prompt", "hi"], "neither an adapter nor a model"),
        (["no/such-model", "--prompt", "hi"], "no such folder"),
        ([adapter, "--video", tmp_path / "no.mp4", "--prompt", "hi"], "no.mp4'"),
        ([adapter, "--video", picture, "--prompt", "hi"], "given as video but holds image data"),
        ([adapter, "--video", clip, "--prompt", "<image> hi"], "--prompt names image"),
        ([adapter, "--base", tmp_path / "none", "--prompt", "hi"], "base model of this adapter is missing"),
        ([model_folder, "--prompt", "what " * 5000], " tokens, and the model takes 4,096, its answer included ("),
    ]:
        status, out, error = run(capsys, *arguments)
        assert (status, out) == (2, "") and error.startswith("error: ") and error.count("\n") == 1, error
        assert words in error
    assert run(capsys, adapter, "--prompt", "hi", "--max-new-tokens", "0")[0] == 2


def test_the_model_card_s_code_answers_as_we_do(adapter, loaded, media_folder, model_folder, capsys, monkeypatch):
    card = collect(adapter, "me/my-model", base="owner/base")["README.md"].decode()
    code = re.search("```python\n(.*?)```", card, re.DOTALL)[1]
    for name, here in {
        "me/my-model": adapter,
        "owner/base": model_folder,
        "clip.mp4": media_folder / "clip3.mp4",
    }.items():
        code = code.replace(f'"{name}"', f'"{here}"')
    exec(code, {})
    system = {"role": "system", "content": [{"type": "text", "text": "Describe"}]}
    prompt = ([system, user(VIDEO, "What happens here?")], [Media("video", str(media_folder / "clip3.mp4"))])
    wanted = answer(*loaded, [prompt], num_frames=4, max_new_tokens=64)
    assert [capsys.readouterr().out.strip()] == wanted
