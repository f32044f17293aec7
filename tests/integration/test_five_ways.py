"""Five ways to load a trained model give one set of answers, from its folder and from the hub."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from huggingface_hub import constants, snapshot_download

from data.media.reference import Media
from data.processor import set_up_processor
from data.processor_files import save_processor
from data.sources.conversation import with_system_prompt
from scripts.demo.questions import CLIP_SKILLS, NEW_SKILL
from scripts.demo.scenes import film, random_scene
from tests.ffmpeg_libraries import with_ffmpeg
from tests.hub_stand_in import standing_in
from tests.short_run import write_recipe
from tests.tiny_adapters import random_adapter
from tests.warm import run_warm
from train.answering.generation import answer
from train.card.model_card import CARD
from train.commands.app import run as reeltune
from train.merging.merge import merge_adapter
from train.model.weight_files import identify_base
from train.recipe.load import load_recipe
from train.results.artifact import open_artifact
from train.results.asking import ways_of_asking
from train.results.loading import load
from train.sft import fingerprint_writer

SCRIPT = Path(__file__).parents[1] / "ways_of_transformers.py"
SYSTEM_PROMPT = "Say where a small square is."
NUM_FRAMES, NUM_CLIPS, MAX_TOKENS = 6, 2, 8
WAYS = ("pipeline", "auto class", "serve")  # `transformers serve` takes full models alone


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("ways")


def add_sound(silent: Path, clip: Path) -> None:
    """Copy a clip and give it a second of silence: `transformers serve` takes no clip without sound."""
    with av.open(str(silent)) as source, av.open(str(clip), "w") as target:
        sound = target.add_stream("aac", rate=16_000, layout="mono")
        video = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                target.mux(packet)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16_000
        target.mux([*sound.encode(frame), *sound.encode(None)])


@pytest.fixture(scope="module")
def questions(folder) -> list[tuple[str, str]]:
    """(clip, question): the demo's, of clips with 12 to 24 frames."""
    asked = []
    for number in range(NUM_CLIPS):
        film(random_scene(np.random.default_rng(number)), folder / "silent.mp4")
        add_sound(folder / "silent.mp4", clip := folder / f"{number}.mp4")
        asked += [(str(clip), question) for question, _ in (CLIP_SKILLS | NEW_SKILL).values()]
    assert len(asked) == 10
    return asked


@pytest.fixture(scope="module")
def adapter(folder, model_folder) -> Path:
    """Leave what training leaves, by what training writes it with."""
    out, data = folder / "out", {"num_frames": NUM_FRAMES, "system_prompt": SYSTEM_PROMPT}
    recipe = load_recipe(write_recipe(folder, model_folder, folder / "train.json", {}, data, {}), [])
    processor, *_ = set_up_processor(str(model_folder), num_frames=NUM_FRAMES)
    model = random_adapter(model_folder)
    model.save_pretrained(out)
    save_processor(processor, out)
    fingerprint_writer(recipe, identify_base(str(model_folder)), processor)(out, model)
    recipe.write(out / "recipe.yaml")
    return out


@pytest.fixture(scope="module")
def merged(folder, adapter) -> Path:
    merge_adapter(str(adapter), folder / "merged", report=lambda line: None)
    return folder / "merged"


def our_answers(
    folder: Path, questions, num_frames: int | None = None, base: str | None = None, max_tokens: int = MAX_TOKENS
) -> list[str]:
    """Ask as `reeltune generate` does, with the model loaded once."""
    artifact = open_artifact(str(folder), base)
    ways = ways_of_asking(artifact, num_frames=num_frames)
    model, processor = load(artifact)
    prompts = []
    for clip, question in questions:
        messages = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": question}]}]
        prompts.append((with_system_prompt(messages, ways.system_prompt), ways.shown([Media("video", clip)])))
    return answer(model, processor, prompts, num_frames=ways.num_frames, max_new_tokens=max_tokens)


def answers_of_card(folder: Path, names: dict[str, Path], questions, capsys) -> list[str]:
    """Run a card's code; what loads the model runs once, what asks it once a question."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", (folder / CARD).read_text(), re.DOTALL | re.MULTILINE)
    for name, here in names.items():
        assert f'"{name}"' in code
        code = code.replace(f'"{name}"', f'"{here}"')
    loads, asks = re.split(r"^(?=with av\.open)", code, flags=re.MULTILINE)
    exec(loads, running := {})
    answers = []
    for clip, question in questions:
        assert '"clip.mp4"' in asks and "What happens here?" in asks
        capsys.readouterr()
        asking = asks.replace("clip.mp4", clip).replace("What happens here?", question)
        exec(asking.replace("max_new_tokens=64", f"max_new_tokens={MAX_TOKENS}"), running)
        answers.append(capsys.readouterr().out.strip())
    return answers


@pytest.fixture(scope="module")
def answers_of_transformers(folder, questions, adapter, merged) -> dict[str, dict[str, list[str]]]:
    """Ask pipeline, Auto classes and `transformers serve`, which choose and decode frames themselves."""
    task = {"folders": {str(adapter): WAYS[:2], str(merged): WAYS}, "questions": questions, "tokens": MAX_TOKENS}
    (folder / "task.json").write_text(json.dumps(task | {"system_prompt": SYSTEM_PROMPT}))
    command = [sys.executable, str(SCRIPT), str(folder / "task.json")]
    done = subprocess.run(command, env=with_ffmpeg(folder / "ffmpeg"), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("which", ["adapter", "merged"])
def test_five_ways_to_load_give_one_set_of_answers(
    which, adapter, merged, questions, model_folder, answers_of_transformers, capsys
):
    out = {"adapter": adapter, "merged": merged}[which]
    ours = our_answers(out, questions)
    theirs = answers_of_transformers[str(out)]
    names = {out.name: out} | ({"path/to/the/base": model_folder} if which == "adapter" else {})
    by_card = answers_of_card(out, names, questions, capsys)
    assert by_card == ours
    assert {way: [text.strip() for text in said] for way, said in theirs.items()} == dict.fromkeys(theirs, ours)
    assert tuple(theirs) == WAYS[: 2 if which == "adapter" else 3]
    asked = ["--video", questions[7][0], "--prompt", questions[7][1], "--max-new-tokens", str(MAX_TOKENS)]
    reeltune(["generate", str(out), *asked])
    assert capsys.readouterr().out.strip() == ours[7]


def test_other_frames_would_be_noticed(merged, questions):
    ours = our_answers(merged, questions)
    assert len(set(ours)) >= NUM_CLIPS and all(ours)
    assert our_answers(merged, questions, num_frames=NUM_FRAMES + 2) != ours


@pytest.mark.parametrize("which", ["adapter", "merged"])
def test_pushed_and_downloaded_it_answers_the_same(
    which, adapter, merged, questions, model_folder, tmp_path, monkeypatch, capsys
):
    """Download into an empty folder and run the card's code on it."""
    out = {"adapter": adapter, "merged": merged}[which]
    ours = our_answers(out, questions)
    with standing_in(monkeypatch) as hub:
        reeltune(["push", str(out), "me/my-model"])
        assert "preprocessing.json" in hub.files["me/my-model"]
        here = Path(snapshot_download("me/my-model", local_dir=tmp_path / "here", max_workers=1))
    names = {"me/my-model": here} | ({"path/to/the/base": model_folder} if which == "adapter" else {})
    assert answers_of_card(here, names, questions, capsys) == ours
    assert our_answers(here, questions, base=str(model_folder) if which == "adapter" else None) == ours


CARDS = """
import sys
for code in sys.argv[1:]:
    print("::", end="")
    exec(code, {"__name__": "__main__"})
"""


def test_the_code_of_cards_runs_as_it_stands_in_an_empty_folder(
    adapter, merged, questions, model_folder, tmp_path, monkeypatch
):
    """Base, adapter and merged model are repositories; nothing but a clip lies where the code runs."""
    names = {"me/adapter": adapter, "me/merged": merged}
    (here := tmp_path / "here").mkdir()
    shutil.copy(questions[0][0], here / "clip.mp4")
    with standing_in(monkeypatch) as hub:
        reeltune(["push", str(model_folder), "me/base"])
        for name, folder in names.items():
            reeltune(["push", str(folder), name, "--base", "me/base"])
        cards = {name: hub.files[name][CARD].decode() for name in names}
        codes = [re.findall(r"^```python\n(.*?)^```$", card, re.DOTALL | re.MULTILINE)[0] for card in cards.values()]
        assert '"me/base"' in codes[0] and '"me/merged"' in codes[1]
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        command = [sys.executable, "-c", CARDS, *codes]
        done = run_warm(command, cwd=here, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    said = [text.strip() for text in done.stdout.split("::")[1:]]
    asked = [(str(here / "clip.mp4"), "What happens here?")]
    assert said == [our_answers(folder, asked, max_tokens=64)[0] for folder in names.values()]
    assert all(said)
