"""Records as other trainers and data sets have them, each from a literal example, and what is said of those that miss
something."""

import json
from pathlib import Path

import pytest

from data.errors import UserError
from data.media.locate import Locator
from data.media.reference import Media
from data.sources.conversation import parse_record
from data.sources.forms import Reading
from tests.source_samples import said

CLIP, PICTURE = Media("video", "/clips/a.mp4"), Media("image", "/clips/b.png")


def parse(record: str | dict, **reading):
    record = json.loads(record) if isinstance(record, str) else record
    return parse_record(record, "train.json record 3", Locator((Path("/clips"),)), Reading(**reading))


ASKED = [("user", "<video>What is it?"), ("assistant", "A dog.")]
# name -> (record, what is said, its media)
EXAMPLES = {
    "ms-swift": (
        '{"query": "<video>What is it?", "response": "A dog.", "videos": ["a.mp4"]}', ASKED, (CLIP,)),
    "ms-swift, with history, system and pictures": (
        '{"system": "Be brief.", "query": "And <image>?", "response": "A cat.", "images": ["b.png"],'
        ' "videos": ["a.mp4"], "history": [["<video>What is it?", "A dog."], ["Sure?", "Yes."]]}',
        [("system", "Be brief."), *ASKED, ("user", "Sure?"), ("assistant", "Yes."),
         ("user", "And <image>?"), ("assistant", "A cat.")],
        (CLIP, PICTURE)),
    "ms-swift, messages": (
        '{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "<video>What is it?"},'
        ' {"role": "assistant", "content": "A dog."}], "videos": ["a.mp4"]}',
        [("system", "Be brief."), *ASKED], (CLIP,)),
    "Alpaca": (
        '{"instruction": "Name the animal.", "input": "It barks.", "output": "A dog."}',
        [("user", "Name the animal.\nIt barks."), ("assistant", "A dog.")], ()),
    "Alpaca, without input, with what LLaMA-Factory adds": (
        '{"instruction": "<video>What is it?", "input": "", "output": "A dog.", "videos": ["a.mp4"],'
        ' "system": "Be brief.", "history": [["Hello", "Hi"]]}',
        [("system", "Be brief."), ("user", "Hello"), ("assistant", "Hi"), *ASKED], (CLIP,)),
    "LLaMA-Factory, sharegpt": (
        '{"conversations": [{"from": "human", "value": "<video>What is it?"}, {"from": "gpt", "value": "A dog."},'
        ' {"from": "human", "value": "<image>And?"}, {"from": "gpt", "value": "A cat."}],'
        ' "system": "Be brief.", "tools": "", "videos": ["a.mp4"], "images": ["b.png"]}',
        [("system", "Be brief."), *ASKED, ("user", "<image>And?"), ("assistant", "A cat.")], (CLIP, PICTURE)),
    "LLaMA-Factory, openai": (
        '{"messages": [{"role": "user", "content": "<video>What is it?"}, {"role": "assistant", "content": "A dog."}],'
        ' "videos": ["a.mp4"], "images": []}', ASKED, (CLIP,)),
    "Video-ChatGPT": ('{"q": "What is it?", "a": "A dog.", "video_id": "a.mp4"}', ASKED, (CLIP,)),
    "ActivityNet-QA": (
        '{"question_id": "v_1_0", "question": "What is it?", "answer": "A dog.", "video": "a.mp4"}', ASKED, (CLIP,)),
    "marks missing in LLaVA's turns": (
        '{"video": "a.mp4", "image": "b.png", "conversations": [{"from": "human", "value": "What is it?"},'
        ' {"from": "gpt", "value": "A dog."}]}',
        [("user", "<image><video>What is it?"), ("assistant", "A dog.")], (PICTURE, CLIP)),
    "marks missing in typed parts": (
        '{"videos": ["a.mp4"], "messages": [{"role": "user", "content": [{"type": "text", "text": "What is it?"}]},'
        ' {"role": "assistant", "content": "A dog."}]}', ASKED, (CLIP,)),
    "nulls and empty lists, as tables have them": (
        '{"messages": [], "conversations": null, "query": "What is it?", "response": "A dog.", "history": [],'
        ' "video": "a.mp4", "videos": [], "images": null, "system": null, "tools": null, "video_id": "x"}',
        ASKED, (CLIP,)),
    "the same clip in the singular and the plural": (
        '{"query": "What is it?", "response": "A dog.", "video": "a.mp4", "videos": ["a.mp4"]}', ASKED, (CLIP,)),
    "an address of a file": (
        '{"query": "What is it?", "response": "A dog.", "videos": ["file:///clips/a.mp4"]}', ASKED, (CLIP,)),
}  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_form_is_read(name):
    record, messages, media = EXAMPLES[name]
    conversation = parse(record)
    assert said(conversation) == messages and conversation.media == media


QA = '{"question": "What is it?", "answer": "A dog.", "clip": "a.mp4"}'
COLUMNS = {"query": "question", "response": "answer", "videos": "clip"}


@pytest.mark.parametrize(
    ("record", "reading"),
    [
        (QA, {"columns": COLUMNS}),
        (QA, {"columns": {"video": "clip"}}),
        ('{"talk": [{"who": "guest", "says": "What is it?"}, {"who": "host", "says": "A dog."}], "video": "a.mp4"}',
         {"columns": {"messages": "talk"}, "tags": {"role_tag": "who", "content_tag": "says", "user_tag": "guest",
                                                    "assistant_tag": "host"}}),
        ('{"conversations": [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A dog."}],'
         ' "clip": "a.mp4"}', {"columns": {"messages": "conversations", "video_id": "id", "videos": "clip"}}),
        # What the answer is called may be another key of ours, even both ways.
        ('{"response": "What is it?", "query": "A dog.", "video": "a.mp4"}',
         {"columns": {"query": "response", "response": "query"}}),
        # A form that is not meant, and a clip that is not meant.
        ('{"question": "What is it?", "answer": "A dog.", "q": "x", "a": "y", "video": "other.mp4", "clip": "a.mp4"}',
         {"columns": {"question": "question", "videos": "clip"}}),
        ('{"Query": "What is it?", "Response": "A dog.", "Video": "a.mp4"}',
         {"columns": {"query": "Query", "response": "Response", "video": "Video"}}),
    ],
)  # fmt: skip
def test_columns_and_tags_name_what_is_called_otherwise(record, reading):
    conversation = parse(record, **reading)
    assert said(conversation) == ASKED and conversation.media == (CLIP,)


def test_the_record_of_a_conversation_has_our_keys():
    found = parse(QA[:-1] + ', "key": 7, "right": ["dog"]}', columns={**COLUMNS, "id": "key", "accept": "right"})
    assert (found.record["id"], found.record["accept"]) == (7, ["dog"])


TALK = '"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi"}]'


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ('{"text": "x", "clip": "a"}',
         ": needs 'conversations' (from/value), 'messages' (role/content), query/response, "
         "instruction/output, question/answer or q/a; it has 'text', 'clip'; name them with columns"),
        ('{"messages": []}', ": needs 'conversations' (from/value), 'messages' (role/content), query/response, "
         "instruction/output, question/answer or q/a; it has 'messages', which is empty; name them with columns"),
        ('{"Query": "x", "Response": "y"}', "name them with columns: columns: {query: Query, response: Response}"),
        ('{"\\ufeffquery": "x", "response": "y"}',
         "is read as query/response, from its 'response', and has no 'query'"),
        ('{"query": "x", "video": "a"}',
         ": is read as query/response, from its 'query', and has no 'response'; add it"),
        ('{"query": "x", "response": null}', "has no 'response'; add it, or name it with columns"),
        ('{"question": "x", "response": "y"}',
         ": mixes forms, it has 'response' of query/response and 'question' of question/answer; say with columns"),
        ('{"query": "x", "response": "y", ' + TALK + "}", ": has two forms at once, conversations and query/response; "
         "drop one, or choose with columns, such as columns: {conversations: conversations}"),
        ('{"messages": [{"role": "user", "content": "x"}], ' + TALK + "}",
         "two forms at once, conversations and messages"),
        ('{"conversations": "text"}', ", conversations: expected a list of turns, got 'text'"),
        ('{"q": "x", "a": 3}', ", a: expected a text, got 3; write it as a text"),
        ('{"q": "x", "a": true}', ", a: expected a text, got True; write it as a text"),
        ('{"q": "x", "a": ["y", "z"]}',
         ", a: expected a text, got ['y', 'z']; several texts that are right belong into"),
        ('{"q": ["x"], "a": "y"}', ", q: expected a text, got ['x']"),
        ('{"query": "x", "response": "y", "history": ["a", "b"]}',
         ", history: expected pairs of a question and an answer"),
        ('{"query": "x", "response": "y", "history": [["a", null]]}', ", history: expected pairs"),
        ('{"query": "x", "response": "y", "history": {"a": "b"}}', ", history: expected pairs"),
        ('{"query": "x", "response": "y", "system": 3}', ", system: expected a text, got 3"),
        ('{"system": "Be brief.", "messages": [{"role": "system", "content": "x"}]}',
         "has a system text in 'system' and"),
        ('{"tools": "[{}]", ' + TALK + "}", ": has 'tools', whose calls are not trained"),
        ('{"q": "x", "a": "y", "video_id": true}',
         ", video_id: expected the name of a clip without its ending, got True"),
        ('{"video": "a", "videos": ["b"], ' + TALK + "}", ": has 'video' and 'videos', which differ; keep one of them"),
        ('{"Video": "a", ' + TALK + "}", ": 'Video' is not 'video'; rename it, or write columns: {video: Video}"),
        ('{"videos ": "a", ' + TALK + "}", ": 'videos ' is not 'videos'"),
        ('{"video": [""], ' + TALK + "}", ", video: expected a path or a list of paths"),
        ('{"videos": ["a", "b"], "query": "<video>What?", "response": "y"}',
         ": clip 'b' has no <video> in the text; 0 <image> in the text and 0 in 'image', 1 <video> in the text and 2"),
        ('{"videos": ["a"], "images": ["b"], "query": "<video>What?", "response": "y"}', "picture 'b' has no <image>"),
        ('{"videos": ["a"], "query": "<|video|>What?", "response": "y"}',
         ", message 1: the text has '<|video|>', which is no mark of a place; write <image> or <video>"),
        ('{"images": ["a"], "query": "<image_1>What?", "response": "y"}', "the text has '<image_1>', which is no mark"),
        ('{"video": "a", "query": "<Video>What?", "response": "y"}', "the text has '<Video>', which is no mark"),
        ('{"videos": ["a"], "messages": [{"role": "user", "content": [{"type": "text", "text": "<video>What?"}]}]}',
         "the text has '<video>', which stands in a part of type text; write <image> or <video> in contents that"),
        ('{"video": "a", "messages": [{"role": "assistant", "content": "A dog."}]}', "no user speaks of its media"),
        ('{"messages": [{"role": "user", "content": "x"}, {"role": "tool", "content": "{}"}]}',
         ", message 2: role 'tool' calls a tool or is one; tools are not trained: drop the record"),
        ('{"conversations": [{"from": "human", "value": "x"}, {"from": "function_call", "value": "{}"}]}',
         ", message 2: role 'function_call' calls a tool or is one"),
        ('{"conversations": [{"from": "observation", "value": "x"}]}', "role 'observation' calls a tool or is one"),
        ('{"messages": [{"role": "assistant", "content": "", "tool_calls": [{"id": 1}]}]}', "calls a tool or is one"),
        ('{"messages": [{"Role": "user", "Content": "x"}]}',
         ", message 1: has no 'from' and no 'role', but 'Role', 'Content'; name it with tags"),
        ('{"system": "s", "messages": [{"role": "user", "text": "x"}]}',
         ", message 1: has no 'value' and no 'content', but 'role', 'text'; name it with tags"),
        ('{"messages": [{"role": "Human", "content": "x"}]}',
         "role 'Human' is none of human, user, gpt, assistant, system;"),
        ('{"query": "x", "response": "y", "video": "file://clips/a.mp4"}',
         "names no file of this machine: it must be file:"),
        ('{"query": "x", "response": "y", "video": "file:///a.mp4?x=1"}', "with %23 for # and %3F for ?"),
    ],
)  # fmt: skip
def test_what_is_missing_is_said_with_what_was_understood(record, message):
    with pytest.raises(UserError) as error:
        parse(record)
    line = str(error.value)
    assert line.startswith("train.json record 3") and message in line and "\n" not in line and len(line) < 400


def test_a_column_that_is_missing_is_said_by_its_name():
    with pytest.raises(UserError, match="from its 'query', and has no 'response' \\(which columns calls 'answer'\\)"):
        parse('{"question": "x", "reply": "y"}', columns={"query": "question", "response": "answer"})


# Where the records lie.
