"""The judge on the loopback: its words, its replies, its faults, what it leaves, and what it is never told."""

import json
import threading
from http.server import ThreadingHTTPServer

import pytest

from data.errors import UserError
from tests.serving import Judge, JudgeHandler, serving
from train.judging import endpoint as endpoints
from train.judging.endpoint import open_endpoint
from train.judging.judge import in_words, judge
from train.judging.prompt import PROMPT_DIGEST, Verdict, messages, verdict
from train.scoring.summary import Scored
from train.scoring.table import print_judged

YES, NO = "{'pred': 'yes', 'score': 4}", '{"pred": "no", "score": 1}'
SECRET = "sk-secret"


def answers(*predicted):
    return [{"id": n, "question": "what?", "expected": "cat", "predicted": text} for n, text in enumerate(predicted)]


@pytest.fixture
def ask(tmp_path, monkeypatch):
    """ask(replies, left_out=...) judges one answer for each key; returns (result, lines told, server)."""
    monkeypatch.setattr(endpoints, "PAUSES", (0.0, 0.0))
    monkeypatch.setenv(endpoints.KEY_VARIABLE, SECRET)

    def run(replies, left_out=0, price=None):
        told = []
        with serving(Judge(replies)) as server:
            endpoint = open_endpoint(server.url, "some-model")
            try:
                return (
                    judge(answers(*replies), left_out, endpoint, tmp_path / "j.jsonl", price, told.append),
                    told,
                    server,
                )
            finally:
                assert SECRET not in "".join(told) + repr(endpoint)

    return run


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        *[(YES, Verdict(True, 4)), (NO, Verdict(False, 1)), (" {'pred': 'Yes', 'score': 4.8}\n", Verdict(True, 4))],
        *[(text, None) for text in ("yes", "", "{'pred': 'yes'}", "{'pred': 'maybe', 'score': 1}", f"Sure: {YES}")],
        *[
            (f"{{'pred': 'yes', 'score': {score}}}", None)
            for score in ("'4'", "6", "-1", "True", "None", "1e999", "nan")
        ],
        *[("{'pred': 'yes', 'score': 4, 'why': 'x'}", None), (f"[{YES}]", None), ("(" * 900, None)],
        *[("__import__('os').abort()", None), ("{'pred': 'yes', 'score': 2+2}", None), (YES + " " * 2000, None)],
    ],
)
def test_only_the_dictionary_that_was_asked_for_is_read(reply, said):
    assert verdict(reply) == said


def test_the_prompt_is_the_published_one():
    assert PROMPT_DIGEST.startswith("4bdd673994c99c7e")  # once compared with the authors' file, letter for letter
    system, user = messages("Q1", "A1", "P{1}")
    assert system["content"].startswith("You are an intelligent chatbot designed for evaluating the correctness")
    assert (
        "task:------##INSTRUCTIONS: - Focus on" in system["content"]
        and "Question: Q1\nCorrect Answer: A1\n" in user["content"]
    )
    assert "Predicted Answer: P{1}\n\nProvide your evaluation only as a yes/no" in user["content"]
    assert user["content"].endswith("not STRING.DO NOT PROVIDE ANY OTHER OUTPUT TEXT OR EXPLANATION. Only provide the "
                                    "Python dictionary string. For example, your response should look like this: "
                                    "{'pred': 'yes', 'score': 4.8}.")  # fmt: skip


def test_each_source_modality_and_group_has_its_figures(tmp_path, capsys):
    """Yes and unreadable in "a", no in "accuracy", as a figure is called too: shares and means by hand; a division into
    one part is not printed."""
    replies = {"x": [YES], "y": ["hm", "hm", "hm"], "z": [NO]}
    parts = [
        Scored(1.0, source, "clip", "accept", {"kind": kind})
        for source, kind in (("a", "c"), ("a", "d"), ("accuracy", "d"))
    ]
    with serving(Judge(replies)) as server:
        endpoint = open_endpoint(server.url, "some-model")
        result = judge(answers(*replies), 0, endpoint, tmp_path / "j.jsonl", report=lambda line: None, parts=parts)

    def figures(divided):
        return {name: (part["accuracy"], part["score"], part["questions"]) for name, part in divided.items()}

    assert figures(result["sources"]) == {"a": (0.5, 2.0, 2), "accuracy": (0.0, 1.0, 1)}
    assert figures(result["modalities"]) == {"clip": pytest.approx((1 / 3, 5 / 3, 3))}
    assert figures(result["groups"]["kind"]) == {"c": (1.0, 4.0, 1), "d": (0.0, 0.5, 2)}
    print_judged(result)
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split() == ["questions", "yes", "95", "%", "interval", "score", "of", "5"]
    assert [line.split()[:4] for line in lines] == [
        *(["source", "a", "2", "50.0%"], ["source", "accuracy", "1", "0.0%"], ["kind", "c", "1", "100.0%"]),
        *(["kind", "d", "2", "0.0%"], ["all", "3", "33.3%", "6.1%"]),
    ]


def test_shares_and_scores_by_hand_and_what_cannot_be_read(ask, tmp_path):
    """Yes, no, unreadable, and yes after two that cannot be read: 2 of 4, of 5 over all; (4 + 1 + 0 + 4) / 4."""
    replies = {"a": [YES], "b": [NO], "c": ["It matches."], "d": ["hm", "hm", YES]}
    result, told, server = ask(replies, left_out=1, price=2.0)
    assert (result["accuracy"], result["accuracy_over_all"], result["score"]) == (0.5, 0.4, 9 / 4)
    assert (result["unreadable"], result["questions"], result["requests"]) == (1, 4, 4)
    assert (result["model"], result["prompt"], result["endpoint"]) == ("some-model", PROMPT_DIGEST, server.url)
    assert len(server.asked) == 1 + 1 + 3 + 3
    assert {path for path, _, _ in server.asked} == {"/v1/chat/completions"}
    assert {key for _, key, _ in server.asked} == {f"Bearer {SECRET}"}
    assert server.asked[0][2].keys() == {"model", "messages"}
    assert told[0].startswith("judge: 4 requests to some-model at http://127.0.0.1:") and " at 2 a million" in told[0]
    assert told[1:] == ["counted as wrong: 2: the judge said 'It matches.'"]
    assert in_words(result).endswith("Numbers of different judges do not compare.")
    assert SECRET not in (tmp_path / "j.jsonl").read_text() + json.dumps(result)


def test_verdicts_are_kept_and_not_paid_for_twice(ask, tmp_path):
    with pytest.raises(UserError, match="status 401.* what was judged is kept"):
        ask({"a": [YES], "b": [401]})
    with serving(Judge({"a": [YES], "b": [NO], "c": [YES]})) as server:
        endpoint = open_endpoint(server.url, "m")
        first = judge(answers("a", "b"), 0, endpoint, tmp_path / "k.jsonl", report=lambda _: None)
        with open(tmp_path / "k.jsonl", "ab") as file:
            file.write(b'{"key": "half of a li')
        again = judge(answers("a", "b", "c", "c"), 0, endpoint, tmp_path / "k.jsonl", report=lambda _: None)
        assert (first["requests"], again["requests"], len(server.asked)) == (2, 1, 3) and again["accuracy"] == 0.75
        other = judge(answers("a"), 0, open_endpoint(server.url, "other"), tmp_path / "k.jsonl", report=lambda _: None)
        assert other["requests"] == 1
    (tmp_path / "k.jsonl").write_text("[]\n")
    with pytest.raises(UserError, match="line 1: is no verdict; delete the file"):
        judge(answers("a"), 0, endpoint, tmp_path / "k.jsonl")


@pytest.mark.parametrize("faults", [[429], [500, 503], [None], [408]])
def test_a_server_that_is_busy_is_asked_again(ask, faults):
    result, _, server = ask({"a": [*faults, YES]})
    assert result["accuracy"] == 1 and len(server.asked) == len(faults) + 1


@pytest.mark.parametrize(
    ("fault", "tries"), [(307, 1), (302, 1), (400, 1), (403, 1), (404, 1), (429, 3), (500, 3), (None, 3)]
)
def test_a_server_that_refuses_is_one_line_and_redirects_are_not_followed(ask, fault, tries, monkeypatch):
    with pytest.raises(UserError) as problem:
        ask({"a": [fault]})
    assert str(problem.value).startswith("--judge: http://127.0.0.1:") and "\n" not in str(problem.value)
    assert SECRET not in str(problem.value)


def test_a_server_that_hangs_is_given_up(monkeypatch, tmp_path):
    monkeypatch.setattr(endpoints, "PAUSES", ())
    monkeypatch.setattr(endpoints, "SECONDS", 0.2)
    released = threading.Event()

    class Hanging(JudgeHandler):
        def do_POST(self):
            released.wait(10)

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Hanging)) as server:
        endpoint = open_endpoint(f"http://user:{SECRET}@127.0.0.1:{server.server_port}/v1", "m")
        try:
            with pytest.raises(UserError, match="does not answer") as problem:
                judge(answers("a"), 0, endpoint, tmp_path / "j.jsonl", report=lambda _: None)
        finally:
            released.set()
    assert SECRET not in str(problem.value)


def test_an_endpoint_needs_an_address_and_a_model():
    with pytest.raises(UserError, match="needs --judge-model"):
        open_endpoint("http://localhost/v1", None)
    for url in ("localhost:8000", "ftp://a/v1", "http://", "http:// a"):
        with pytest.raises(UserError, match="is no address"):
            open_endpoint(url, "m")
