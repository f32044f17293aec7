import json
from pathlib import Path

import pytest

from data.errors import UserError
from data.media.locate import Locator
from data.media.reference import Media
from data.sources.conversation import parse_record, read_conversations, stop
from data.sources.json_records import read_json
from data.sources.parts import split_placeholders
from data.sources.source import Source

ROOT = Path("/clips")


def parse(record):
    return parse_record(record, "train.json record 3", Locator((ROOT,)))


def text(words):
    return {"type": "text", "text": words}


def test_llava_record_becomes_messages_with_media_in_order():
    conversation = parse(
        {
            "image": ["a.png", "b.png"],
            "video": "c.mp4",
            "conversations": [
                {"from": "human", "value": "<image>\n<video>\nWhich?"},
                {"from": "gpt", "value": " the first "},
                {"from": "human", "value": "And <image> here?"},
                {"from": "gpt", "value": ""},
            ],
        }
    )
    assert conversation.messages == [
        {"role": "user", "content": [{"type": "image"}, {"type": "video"}, text("Which?")]},
        {"role": "assistant", "content": [text("the first")]},
        {"role": "user", "content": [text("And "), {"type": "image"}, text(" here?")]},
        {"role": "assistant", "content": []},
    ]
    assert conversation.media == (
        Media("image", "/clips/a.png"),
        Media("video", "/clips/c.mp4"),
        Media("image", "/clips/b.png"),
    )


def test_typed_messages_mean_the_same_as_llava():
    typed = parse(
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "video", "path": "c.mp4"}, text("What?")]},
                {"role": "assistant", "content": [text("a dog")]},
            ]
        }
    )
    llava = parse(
        {
            "video": "c.mp4",
            "conversations": [
                {"from": "system", "value": "Be brief."},
                {"from": "human", "value": "<video>\nWhat?"},
                {"from": "gpt", "value": "a dog"},
            ],
        }
    )
    assert (typed.messages, typed.media) == (llava.messages, llava.media)


def test_absolute_paths_stay_and_typed_parts_may_take_the_record_s_files():
    record = {
        "videos": ["/elsewhere/c.mp4"],
        "messages": [
            {"role": "user", "content": [{"type": "video"}, text("What?")]},
            {"role": "assistant", "content": "a dog"},
        ],
    }
    assert parse(record).media == (Media("video", "/elsewhere/c.mp4"),)


def test_seconds_of_a_clip_in_both_formats():
    llava = parse({"video": "a.mp4", "start": 2.5, "end": 7, "conversations": [HUMAN, GPT]})
    assert llava.media == (Media("video", "/clips/a.mp4", start=2.5, end=7.0),)
    parts = [{"type": "video", "path": "a.mp4", "end": 7}, {"type": "video", "path": "a.mp4", "start": 7, "end": None}]
    record = {"messages": [{"role": "user", "content": [*parts, text("Which?")]}, {"role": "assistant", "content": ""}]}
    typed = parse(record)
    assert typed.media == (Media("video", "/clips/a.mp4", end=7.0), Media("video", "/clips/a.mp4", start=7.0))
    assert typed.messages[0]["content"][:2] == [{"type": "video"}, {"type": "video"}]


@pytest.mark.parametrize(
    ("written", "parts"),
    [
        ("What?", [text("What?")]),
        ("<video>\nWhat?", [{"type": "video"}, text("What?")]),
        ("<video>What?", [{"type": "video"}, text("What?")]),
        ("What?\n<image>", [text("What?\n"), {"type": "image"}]),
        ("a <image> b <video>", [text("a "), {"type": "image"}, text(" b "), {"type": "video"}]),
        ("", []),
    ],
)
def test_split_placeholders(written, parts):
    assert split_placeholders(written) == parts


HUMAN, GPT = {"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "a dog"}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ([], "expected an object, got []"),
        ({}, "needs 'conversations'"),
        ({"conversations": []}, "needs 'conversations'"),
        (
            {"conversations": [HUMAN, GPT]},
            "a <video> has no clip; 0 <image> in the text and 0 in 'image', 1 <video>",
        ),
        ({"video": ["a", "b"], "conversations": [HUMAN, GPT]}, "clip 'b' has no <video> in the text"),
        ({"image": "a.png", "video": "a", "conversations": [HUMAN, GPT]}, "picture 'a.png' has no <image>"),
        ({"video": 3, "conversations": [HUMAN, GPT]}, "expected a path or a list of paths, got 3"),
        (
            {"video": "a", "conversations": [{"from": "robot", "value": "x"}]},
            "message 1: role 'robot' is none of",
        ),
        (
            {"video": "a", "conversations": [HUMAN, {"from": "gpt", "value": 3}]},
            "message 2: expected a text or",
        ),
        (
            {"video": "a", "start": "0:02", "conversations": [HUMAN, GPT]},
            "start: expected seconds from the clip's first",
        ),
        ({"video": "a", "end": -1, "conversations": [HUMAN, GPT]}, "end: expected seconds from the clip's first"),
        ({"video": "a", "end": True, "conversations": [HUMAN, GPT]}, "got True"),
        ({"video": "a", "start": 2, "end": 2, "conversations": [HUMAN, GPT]}, "end: 2 is not behind start: 2"),
        ({"video": ["a", "b"], "end": 2, "conversations": [HUMAN, GPT]}, "one clip in 'video', which names 2"),
        ({"image": "a", "end": 2, "conversations": [HUMAN, GPT]}, "one clip in 'video', which names 0"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "path": "a", "start": 1}]}]},
            "message 1: 'start' and 'end' belong to a part that names a clip",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "audio"}]}]},
            "part {'type': 'audio'} is none of",
        ),
    ],
)
def test_a_wrong_record_is_named_with_its_row(record, message):
    with pytest.raises(UserError) as error:
        parse(record)
    assert str(error.value).startswith("train.json record 3")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_json_and_jsonl_read_the_same(tmp_path):
    records = [
        {"video": "a.mp4", "conversations": [HUMAN, GPT]},
        {"video": "b.mp4", "conversations": [HUMAN, GPT]},
    ]
    (tmp_path / "a.json").write_text(json.dumps(records, indent=1))
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n\n")
    listed, lined = (list(read_conversations(Source(tmp_path / name))) for name in ("a.json", "a.jsonl"))
    assert [c.media for c in listed] == [c.media for c in lined] == [
        (Media("video", str(tmp_path / name)),) for name in ("a.mp4", "b.mp4")
    ]  # fmt: skip
    assert lined[1].name == f"{tmp_path}/a.jsonl record 2"
    assert list(read_conversations(Source(tmp_path / "a.json", media_root="/m")))[0].media[0].path == "/m/a.mp4"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[{]", "not JSON"),
        (b'{"a": 1}\n{"b"', "line 2: not JSON"),
        (b"\xff\xfe\x00", "not a text file in UTF-8"),
    ],
)
def test_unreadable_files_are_named(tmp_path, content, message):
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        list(read_json(str(path), stop))
    assert str(path) in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="cannot read the data file: No such file"):
        list(read_conversations(Source(tmp_path / "none.json")))


@pytest.mark.parametrize("keys", [("conversations", "from", "value"), ("messages", "role", "content")])
def test_keys_that_are_null_are_not_there(keys):
    """Tables of both formats, and JSON that is made of them, have every key in every record."""
    talk, who, what = keys
    turns = [{"role": None, "from": None, "content": None, "value": None, who: name, what: text}
             for name, text in (("user", "<video>\nWhat?"), ("assistant", "a card"))]  # fmt: skip
    nulls = dict.fromkeys(("conversations", "messages", "image", "images", "video", "start", "end"))
    plain = parse({"videos": ["a.mp4"], talk: [{who: turn[who], what: turn[what]} for turn in turns]})
    found = parse({**nulls, "videos": ["a.mp4"], talk: turns})
    assert (found.messages, found.media) == (plain.messages, plain.media) and len(found.media) == 1


@pytest.mark.parametrize("content", ["nice \ud83d", [{"type": "text", "text": "\ude00 nice"}]])
def test_half_an_emoji_is_named(content):
    record = {"messages": [{"role": "user", "content": "How?"}, {"role": "assistant", "content": content}]}
    with pytest.raises(
        UserError, match=r"^train.json record 3, message 2: the text holds half of a character \('.u"
    ) as e:
        parse(record)
    str(e.value).encode()
