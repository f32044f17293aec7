"""A chat: what is typed, what is shown for it, and what becomes of the conversation."""

import io
import json
import shlex
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from data.decoding.decode import decode
from data.errors import UserError
from data.media.reference import Media
from data.sources.conversation import read_conversations
from data.sources.source import Source
from data.video_llava import fit
from train.answering.decoding import Decoding
from train.answering.generation import answer
from train.commands.app import run as reeltune
from train.model.build import build_config, build_model
from train.results.loading import greedy
from train.talking import terminal
from train.talking.chat import Chat, changed
from train.talking.dialogue import Dialogue, media_named
from train.talking.sampling import Sampling
from train.talking.talker import Talker
from train.talking.terminal import Screen, completions

NUM_TOKENS = 6


@pytest.fixture(scope="module")
def talker(processor):
    model = build_model(build_config("tiny", processor.tokenizer)).eval()
    model.generation_config = greedy(processor.tokenizer)
    return Talker(model, processor, num_frames=8)


class Written(Screen):
    """A screen that keeps what it shows."""

    def __init__(self, is_terminal=False):
        self.is_terminal, self.said, self.told = is_terminal, "", []

    def say(self, piece):
        self.said += piece

    def tell(self, line):
        self.told.append(line)


@pytest.fixture
def conversation(talker):
    return Chat(talker, Dialogue(), Sampling(max_tokens=NUM_TOKENS), Written())


def test_questions_about_a_clip_and_a_picture(conversation, media_folder):
    clip, picture = media_folder / "clip0.mp4", media_folder / "picture0.png"
    conversation.run(
        [f"/video {clip}", "What colour is the shape?", "", "Which way?", f"/image {picture}", "And this?"]
    )
    *_, first, second, _, third = conversation.screen.told
    talker, dialogue = conversation.talker, conversation.dialogue
    answers = conversation.screen.said.splitlines()
    media = [Media("video", str(clip)), Media("image", str(picture))]
    assert dialogue.media == media and len(dialogue.messages) == 6
    for number, said in zip((1, 3, 5), answers, strict=True):
        messages = dialogue.messages[:number]
        shown = media[: sum(part["type"] != "text" for message in messages for part in message["content"])]
        (alone,) = answer(talker.model, talker.processor, [(messages, shown)], num_frames=8, max_new_tokens=NUM_TOKENS)
        assert said == alone.splitlines()[0]
    assert first.startswith("first word after ") and "156 of 156 tokens computed" in first
    assert f"{NUM_TOKENS} tokens in " in first and "it ends at max_tokens 6" in first
    computed = [int(line.split(", ")[1].split()[0]) for line in (second, third)]
    assert computed[0] < 60 and 16 < computed[1] < 100


def test_a_part_of_a_clip():
    assert media_named("video", "no.mp4 1.5-3") == Media("video", "no.mp4", 1.5, 3.0)
    assert media_named("video", "a b.mp4 1:02-") == Media("video", "a b.mp4", 62.0)
    assert media_named("video", "'a b.mp4' -1:00:01.5") == Media("video", "a b.mp4", None, 3601.5)
    for words, reason in [("no.mp4 3-2", "not behind"), ("no.mp4 1:2:3:4-", "no time"), ("", "no file")]:
        with pytest.raises(UserError, match=reason):
            media_named("video", words)


def test_a_file_that_ends_like_a_part_is_that_file(tmp_path):
    (tmp_path / "clip 1-2").write_bytes(b"x")
    assert media_named("video", str(tmp_path / "clip 1-2")).start is None


def test_the_frames_are_those_that_the_model_sees(conversation, media_folder, processor, tmp_path):
    clip = media_folder / "clip0.mp4"
    conversation.run([f"/video {clip}", f"/frames {tmp_path / 'seen.png'}"])
    assert conversation.screen.said == f"{tmp_path / 'seen.png'}\n"
    with Image.open(tmp_path / "seen.png") as picture:
        assert picture.size == (8 * 60 - 4, 56 + 14)
        pixels = fit(processor, "video", decode(Media("video", str(clip)), 8))
        for number in (0, 7):
            frame = np.asarray(picture.crop((60 * number, 14, 60 * number + 56, 70)))
            assert np.array_equal(frame, pixels[number].permute(1, 2, 0))


def test_a_picture_of_frames_that_cannot_be_written_is_no_end_of_the_chat(talker, media_folder, tmp_path):
    typed = Chat(talker, Dialogue(), Sampling(max_tokens=2), Written(True))
    typed.run([f"/video {media_folder / 'clip0.mp4'}", f"/frames {tmp_path / 'no' / 'seen.png'}", "/help"])
    assert "seen.png cannot be written: No such file" in typed.screen.told[1] and "/help" in str(typed.screen.told)


def test_frames_without_a_name_lie_in_a_folder_of_their_own(conversation, media_folder):
    conversation.run([f"/image {media_folder / 'picture0.png'}", f"/video {media_folder / 'clip1.mp4'}", "/frames"])
    names = conversation.screen.said.split()
    assert [name.rpartition("/")[2] for name in names] == ["1-picture0.png", "2-clip1.png"]
    for name in names:
        Image.open(name).verify()


def test_a_conversation_is_saved_as_a_record_of_data(conversation, media_folder, tmp_path):
    file = tmp_path / "talk.jsonl"
    conversation.run([
        "/system Describe", f"/video {media_folder / 'clip0.mp4'} 0.1-0.8", "What?", "Why?", f"/save {file}",
        "/reset", "Hello", f"/save {file}",
    ])  # fmt: skip
    first, second = read_conversations(Source(file, media_root=media_folder))
    assert first.media == (Media("video", str(media_folder / "clip0.mp4"), 0.1, 0.8),)
    assert [message["role"] for message in first.messages] == ["system", *["user", "assistant"] * 2]
    assert first.messages[1]["content"] == [{"type": "video"}, {"type": "text", "text": "What?"}]
    assert len(second.messages) == 3 and not second.media


def test_placeholders_say_where_media_stand(conversation, media_folder):
    conversation.run([f"/video {media_folder / 'clip0.mp4'}", f"/image {media_folder / 'picture0.png'}"])
    conversation.run(["Compare <video> and <image>, please"])
    kinds = [part["type"] for part in conversation.dialogue.messages[0]["content"]]
    assert kinds == ["text", "video", "text", "image", "text"]
    with pytest.raises(UserError, match="names video, but it shows nothing"):
        conversation.take("And <video>?")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("/video no.mp4", "cannot be read"),
        ("/video {picture}", "given as video but holds image"),
        ("/image {picture} 1-2", "cannot be read"),
        ("/frames", "nothing is shown"),
        ("/save talk.json", "write /save FILE.jsonl"),
        ("/save talk.jsonl", "nothing was said"),
        ("/set temperature hot", "no number"),
        ("/set max_tokens 1.5", "no whole number"),
        ("/set temperature 9", "from 0 to 2"),
        ("/set nothing 1", "write /set NAME VALUE"),
        ("/set temperature 0.5 0.7", "one value"),
        (f"/video {'x' * 300}.mp4 1-2", "File name too long"),
        ("/video ~nobody-has-this-name/a.mp4", "cannot be read"),
        ("/vidoe a.mp4", "no command"),
        ("say </s>", "special token"),
    ],
)
def test_a_mistake_is_a_line_in_a_terminal_and_the_end_in_a_script(talker, media_folder, line, reason):
    line = line.format(picture=media_folder / "picture0.png")
    for is_terminal in (True, False):
        typed = Chat(talker, Dialogue(), Sampling(max_tokens=2), Written(is_terminal))
        if is_terminal:
            typed.run([line, "Hello"])
            assert any(told.startswith("error: ") and reason in told for told in typed.screen.told)
            assert len(typed.dialogue.messages) == 2 and not typed.dialogue.pending
        else:
            with pytest.raises(UserError, match=reason):
                typed.run([line])


def test_a_question_that_fails_can_be_asked_again(talker, media_folder, tmp_path):
    clip = tmp_path / "clip.mp4"
    clip.write_bytes((media_folder / "clip0.mp4").read_bytes())
    typed = Chat(talker, Dialogue(), Sampling(max_tokens=2), Written(True))
    typed.run([f"/video {clip}"])
    clip.rename(tmp_path / "away.mp4")
    typed.run(["What?"])
    assert "No such file" in typed.screen.told[-1] and typed.dialogue.pending
    (tmp_path / "away.mp4").rename(clip)
    typed.run(["What?"])
    assert len(typed.dialogue.messages) == 2 and not typed.dialogue.pending


def test_a_lack_of_memory_is_no_end_of_the_chat(talker, monkeypatch):
    typed = Chat(talker, Dialogue(), Sampling(max_tokens=2), Written(True))
    typed.run(["Hello"])
    assert len(talker.store) and len(typed.dialogue.messages) == 2
    with monkeypatch.context() as patch:
        patch.setattr(Decoding, "step", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory")))
        typed.run(["And now?"])
    assert "error: there is too little memory" in typed.screen.told[-1] and not len(talker.store)
    typed.run(["And now?"])
    assert len(typed.dialogue.messages) == 4


def test_ctrl_c_ends_an_answer_and_not_the_chat(talker, monkeypatch):
    """It comes with the second piece, then before the first."""
    whole = Chat(talker, Dialogue(), Sampling(max_tokens=NUM_TOKENS), Written(True))
    whole.take("Hello, how are you?")
    typed = Chat(talker, Dialogue(), Sampling(max_tokens=NUM_TOKENS), Written(True))

    def say(piece):
        typed.screen.said += piece
        if piece != "\n":
            raise KeyboardInterrupt

    monkeypatch.setattr(typed.screen, "say", say)
    typed.take("Hello, how are you?")
    assert typed.screen.told[-1] == "stopped" and whole.screen.said.startswith(typed.screen.said.rstrip("\n"))
    assert typed.dialogue.messages[-1]["content"][0]["text"] == typed.screen.said.rstrip("\n")
    monkeypatch.setattr(talker.frames.load.__class__, "fitted", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    typed.dialogue.reset()
    typed.dialogue.pending = [Media("image", __file__)]
    typed.take("What?")
    assert "taken back" in typed.screen.told[-1] and typed.dialogue.pending and not typed.dialogue.messages


def test_options_are_changed_and_taken_back():
    sampling = changed(Sampling(), "temperature 0.7")
    sampling = changed(changed(sampling, 'stop "a b" c'), "seed 3")
    assert sampling == Sampling(0.7, stop=("a b", "c"), seed=3)
    assert changed(changed(sampling, "stop off"), "temperature off") == Sampling(seed=3)
    assert changed(sampling, r"stop \n it's").stop == (r"\n", "it's")


def test_the_help_names_every_command(conversation):
    conversation.run(["/help"])
    assert [line.split()[0] for line in conversation.screen.told] == list(conversation.commands)


def test_what_the_model_says_moves_no_cursor(capsys):
    screen = Screen()
    screen.is_terminal = True
    screen.say("a\x1b[2Jb\tc\nd")
    assert capsys.readouterr().out == "a\\x1b[2Jb\tc\nd"


def test_tab_completes_commands_and_files(tmp_path):
    for name in ("clip 1.mp4", "clips", "other"):
        (tmp_path / name).mkdir() if name == "clips" else (tmp_path / name).touch()
    assert completions("/f", "/f", ["/frames", "/video"]) == ["/frames "]
    assert completions(f"{tmp_path}/cl", f"/video {tmp_path}/cl", []) == [
        f"{tmp_path}/clip 1.mp4",
        f"{tmp_path}/clips/",
    ]


def test_the_command_takes_lines_from_a_pipe(model_folder, media_folder, monkeypatch, capsys):
    lines = "What colour is the shape?\n/set max_tokens 3\nWhich way?\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    reeltune(["chat", str(model_folder), "--video", str(media_folder / "clip0.mp4"), "--max-new-tokens", "4"])
    shown = capsys.readouterr()
    told = [line for line in shown.err.splitlines() if line.startswith("first word after")]
    assert "; 4 tokens in" in told[0] and "; 3 tokens in" in told[1]
    reeltune(["generate", str(model_folder), "--video", str(media_folder / "clip0.mp4"), "--max-new-tokens", "4",
              "--prompt", "What colour is the shape?"])  # fmt: skip
    assert shown.out.splitlines()[0] == capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize(
    ("words", "reason"),
    [("--video no.mp4", "'no.mp4' cannot be read"), ("--temperature 3", "temperature: must be a number from 0 to 2")],
)
def test_what_is_wrong_is_said_before_a_model_is_loaded(words, reason, capsys, tmp_path):
    with pytest.raises(SystemExit) as end:
        reeltune(["chat", str(tmp_path), *shlex.split(words)])
    assert end.value.code == 2 and capsys.readouterr().err.startswith(f"error: {reason}")


def test_the_history_is_kept_in_the_user_s_folder_of_states(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert terminal.history_file() == tmp_path / "reeltune" / "chat_history"


def test_a_terminal_s_lines_end_with_ctrl_d_and_go_on_after_ctrl_c(monkeypatch, capsys):
    typed = iter(["Hello", KeyboardInterrupt, "/help", EOFError])

    def read(prompt):
        line = next(typed)
        if not isinstance(line, str):
            raise line
        return line

    monkeypatch.setattr("builtins.input", read)
    monkeypatch.setattr(terminal, "_set_up_history", lambda words: None)
    assert list(terminal.lines(SimpleNamespace(is_terminal=True), [])) == ["Hello", "/help"]
    assert "Ctrl-D leaves" in capsys.readouterr().out


def test_the_record_names_whole_paths():
    dialogue = Dialogue(pending=[Media("video", "clip.mp4", end=2.0)])
    messages, _ = dialogue.ask("What?")
    dialogue.answered(messages, "a square")
    (part, _), _ = (message["content"] for message in dialogue.record()["messages"])
    assert part["path"].startswith("/") and part["end"] == 2.0 and "start" not in part
    assert json.loads(json.dumps(dialogue.record()))
