import json
import subprocess
import sys
import time
from collections import defaultdict

import pytest

import train.jobs.evaluate as jobs_evaluate
from data.errors import UserError
from data.sources.conversation import read_conversations
from data.sources.source import Source
from tests.serving import Judge, serving
from tests.tiny_data import turns
from tests.warm import Warm
from train.answering.generation import answer
from train.commands import app
from train.commands.evaluate import evaluate as evaluate_command
from train.results.answer_file import AnswerFile
from train.results.artifact import open_artifact
from train.results.evaluation import questions_of
from train.results.loading import load


def run(capsys, *arguments):
    """Return (exit status, stdout, stderr) of scripts/evaluate.py in this process."""
    status = 0
    try:
        app.run(list(map(str, arguments)), "evaluate.py", evaluate_command)
    except SystemExit as end:
        status = end.code
    return status, *capsys.readouterr()


def test_predictions_are_the_model_s_answers_in_the_file_s_order(model_folder, mixed_file, tmp_path, capsys):
    out, summary_file = tmp_path / "new" / "predictions.jsonl", tmp_path / "new" / "summary.json"
    command = [model_folder, "--data", mixed_file, "--out", out, "--json", summary_file]
    status, printed, _ = run(capsys, *command, "--batch-size", "5", "--max-new-tokens", "4")
    records = [json.loads(line) for line in out.read_text().splitlines()]
    summary = json.loads(summary_file.read_text())
    correct = sum(record["correct"] for record in records)
    *table, last = printed.splitlines()
    assert status == 0 and last == f"{correct / len(records):.1%} of {len(records)} answers correct: {out}"
    assert table[0].split()[0] == "questions" and [line.split()[1] for line in table[1:4]] == [
        "clip",
        "picture",
        "text",
    ]
    assert (summary["accuracy"], summary["questions"]) == (correct / len(records), len(records))

    questions = [question for each in read_conversations(Source(mixed_file)) for question in questions_of(each)]
    assert len(records) == len(questions) == sum(len(c.messages) // 2 for c in read_conversations(Source(mixed_file)))
    loaded = load(open_artifact(str(model_folder)))
    for record, question in zip(records, questions, strict=True):
        assert record["media"] == [item.path for item in question.media]
        assert (record["question"], record["expected"]) == (question.text, question.expected)
        alone = answer(*loaded, [(question.messages, question.media)], num_frames=8, max_new_tokens=4)
        assert record["predicted"] == alone[0]
    assert sorted(path.name for path in out.parent.iterdir()) == ["predictions.jsonl", "summary.json"]


@pytest.fixture
def some_bad(media_folder, tmp_path):
    """Two questions about sound media, three about a clip that cannot be decoded, one about one that is not there."""
    (tmp_path / "bad.mp4").write_bytes((media_folder / "clip0.mp4").read_bytes()[:2000])
    sound = [
        {"video": str(media_folder / "clip0.mp4"), "conversations": turns("<video>\nWhat is shown?", "a test card")},
        {"image": str(media_folder / "picture0.png"), "conversations": turns("<image>\nWhat is shown?", "a gradient")},
    ]
    bad = [{"video": "bad.mp4", "conversations": turns("<video>\nWhat?", "x", "And?", "y", "And?", "z")}]
    missing = [{"video": "nowhere.mp4", "conversations": turns("<video>\nWhat?", "x")}]
    (tmp_path / "data.json").write_text(json.dumps([*bad, sound[0], *missing, sound[1]]))
    return tmp_path / "data.json"


def test_bad_media_cost_their_own_questions_alone(model_folder, some_bad, tmp_path, capsys):
    out, summary = tmp_path / "out.jsonl", tmp_path / "summary.json"
    command = [model_folder, "--data", some_bad, "--out", out, "--json", summary, "--max-new-tokens", 1]
    status, printed, _ = run(capsys, *command)
    assert status == 0
    assert [json.loads(line)["expected"] for line in out.read_text().splitlines()] == ["a test card", "a gradient"]
    told = [line for line in printed.splitlines() if line.startswith("left out: ")]
    assert len(told) == 2 and sum("nowhere.mp4" in line for line in told) == 1
    assert sum("bad.mp4" in line for line in told) == 1
    assert printed.splitlines()[-1].endswith(f" of 2 answers correct, 4 left out: {out}")
    counts = json.loads(summary.read_text())
    assert (counts["questions"], counts["left_out"], counts["bad_media"]) == (2, 4, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.mp4", "data.json", "out.jsonl", "summary.json"]


def test_a_question_that_is_longer_than_the_model_takes_costs_itself(model_folder, tmp_path, capsys):
    """The tiny model was made for 4,096 tokens, the answer's included; more would be computed for ages."""
    data, out = tmp_path / "data.json", tmp_path / "out.jsonl"
    long = {"id": "long", "conversations": turns("what " * 5000, "x")}
    data.write_text(json.dumps([long, {"id": "short", "conversations": turns("What?", "x")}]))
    command = [model_folder, "--out", out, "--max-new-tokens", "1", "--data"]
    status, printed, _ = run(capsys, *command, data)
    assert status == 0 and [json.loads(line)["id"] for line in out.read_text().splitlines()] == ["short"]
    assert printed.splitlines()[0].startswith("left out: long has 20,0")
    assert " tokens, and the model takes 4,096, its answer included (" in printed.splitlines()[0]
    assert printed.splitlines()[-1].endswith(f" of 1 answers correct, 1 left out: {out}")
    data.write_text(json.dumps([long]))
    out.unlink()
    status, _, error = run(capsys, *command, data)
    assert status == 2 and "error: none of the 1 questions can be answered: long has 20,0" in error


def test_a_killed_evaluation_is_continued(model_folder, mixed_file, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    command = [model_folder, "--data", mixed_file, "--out", out, "--batch-size", 1, "--max-new-tokens", 12]
    process = Warm(
        [sys.executable, "-m", "scripts.evaluate", *map(str, command)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    while not out.exists() or out.read_bytes().count(b"\n") < 3:
        time.sleep(0.002)
        assert process.poll() is None, process.stderr.read()
    process.kill()
    process.communicate()
    with open(out, "ab") as file:
        file.write(b'{"id": "half of a li')
    kept = out.read_bytes().split(b"\n")[:-1]
    assert 3 <= len(kept) < len(read_questions(mixed_file))

    for others, changed in [(["--max-new-tokens", 11], "settings"), (["--limit", 4], "questions")]:
        before = out.read_bytes()
        status, _, error = run(capsys, *command, *others)
        assert status == 2 and f"unfinished evaluation with another {changed}; give another --out" in error
        assert out.read_bytes() == before
    status, printed, _ = run(capsys, *command)
    assert status == 0 and f"{len(kept)} of {len(read_questions(mixed_file))} answers are in {out} already" in printed
    command[4] = tmp_path / "unbroken.jsonl"
    run(capsys, *command)
    assert out.read_bytes() == command[4].read_bytes()
    assert [path.name for path in tmp_path.glob(".*")] == []


def read_questions(file):
    return [question for each in read_conversations(Source(file)) for question in questions_of(each)]


def test_several_files_a_metric_for_all_and_a_recipe_s_own(model_folder, mixed_file, tmp_path, capsys):
    words = [{"conversations": turns(f"How are you, {number}?", "fine thanks")} for number in range(3)]
    (tmp_path / "words.json").write_text(json.dumps(words))
    out, summary = tmp_path / "out.jsonl", tmp_path / "summary.json"
    files = ["--data", mixed_file, "--data", tmp_path / "words.json", "--metric", "rouge_l", "--limit", 2]
    status, printed, _ = run(capsys, model_folder, *files, "--out", out, "--json", summary, "--max-new-tokens", 3)
    counts = json.loads(summary.read_text())
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert status == 0 and counts["questions"] == len(records) == 4 and counts["metric"] == "rouge_l"
    assert {name: part["questions"] for name, part in counts["sources"].items()} == {
        mixed_file.name: 2,
        "words.json": 2,
    }
    assert counts["accuracy"] == pytest.approx(sum(record["score"] for record in records) / 4)
    assert "source words.json, rouge_l" in printed

    recipe = {
        "model": {"name_or_path": str(model_folder)},
        "data": {"train": [{"path": str(mixed_file)}], "eval": [{"path": str(tmp_path / "words.json")}]},
        "training": {"output_dir": str(tmp_path / "run")},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    status, printed, _ = run(capsys, model_folder, tmp_path / "recipe.yaml", "--out", out, "--max-new-tokens", 1)
    assert status == 0 and " of 3 answers correct" in printed
    entry = recipe["data"]["eval"][0] | {"metric": "token_f1", "max_questions": 2, "name": "greetings"}
    recipe["data"] |= {"eval": [entry, {"path": str(mixed_file), "metric": "accept"}], "max_new_tokens": 2}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    run(capsys, model_folder, tmp_path / "recipe.yaml", "--out", out, "--json", summary)
    parts = json.loads(summary.read_text())["sources"]
    assert {name: (part["questions"], part["metric"]) for name, part in parts.items()} == {
        "greetings": (2, "token_f1"),
        "mixed": (17, "accept"),
    }
    for wrong, error in [
        ([tmp_path / "recipe.yaml", "--data", mixed_file, "--out", out], "give what to ask: a recipe"),
        (["--out", out], "give what to ask: a recipe"),
        (["--data", mixed_file], "--out: name the file"),
        (
            ["--data", "a", "--data", "b", "--data", "c", "--media-root", "d", "--media-root", "e", "--out", out],
            "2 folders for 3",
        ),
        (["--data", mixed_file, "--out", out, "--metric", "bleu"], "Invalid value for '--metric'"),
        (
            ["--data", mixed_file, "--out", out, "--metric", "multiple_choice"],
            "record 1: the metric multiple_choice needs",
        ),
    ]:
        status, _, told = run(capsys, model_folder, *wrong)
        assert status == 2 and error in told and len(told.splitlines()) == 1, told


def test_a_published_benchmark_is_asked_and_compared(model_folder, media_folder, tmp_path, capsys):
    (folder := tmp_path / "msvd" / "videos").mkdir(parents=True)
    (folder / "vid1.mp4").symlink_to(media_folder / "clip0.mp4")
    names = [("vid1", "a"), ("vid2", "b"), ("vid1", "c")]
    asked = [{"video_name": clip, "question": f"what {each}?", "question_id": each} for clip, each in names]
    (tmp_path / "msvd" / "test_q.json").write_text(json.dumps(asked))
    (tmp_path / "msvd" / "test_a.json").write_text(
        json.dumps([{"answer": "red", "question_id": each} for each in "cba"])
    )
    out, summary = tmp_path / "out.jsonl", tmp_path / "summary.json"
    command = [model_folder, "--benchmark", "msvd", "--data", tmp_path / "msvd", "--out", out, "--max-new-tokens", 1]
    status, _, error = run(capsys, *command)
    assert status == 2 and "leads out of" in error and "--media-root" in error
    (folder / "vid1.mp4").unlink()
    (folder / "vid1.mp4").write_bytes((media_folder / "clip0.mp4").read_bytes())
    status, printed, _ = run(capsys, *command, "--json", summary)
    counts = json.loads(summary.read_text())
    assert status == 0 and f"left out: {folder}/vid2.mp4" in printed.replace("'", "")
    assert (counts["questions"], counts["left_out"], counts["sources"].keys()) == (2, 1, {"msvd"})
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == ["a", "c"]

    earlier = out.rename(tmp_path / "earlier.jsonl")
    with serving(Judge(defaultdict(lambda: ["{'pred': 'yes', 'score': 3}"]))) as server:
        judge = ["--judge", server.url, "--judge-model", "some-model"]
        status, printed, _ = run(capsys, *command, "--json", summary, "--against", earlier, *judge)
    assert status == 0 and "judged by some-model, prompt " in printed and "do not compare" in printed
    judged = json.loads(summary.read_text())["judge"]
    assert (judged["accuracy"], judged["accuracy_over_all"], judged["score"]) == (1, 2 / 3, 3)
    assert json.loads(summary.read_text())["against"]["ties"] == 2
    assert f"against {earlier}\n" in printed and "both          2  0.0%   0.0%" in printed
    for wrong, told in [
        (["--benchmark", "msvd-qa", "--data", tmp_path], "--benchmark: 'msvd-qa' is none of msvd, msrvtt"),
        (["--benchmark", "msvd", "--data", "a", "--data", "b"], "--benchmark: give one --data, the folder of msvd's"),
        (["--data", "a", "--subset", "short"], "--subset: only a --benchmark has named parts"),
        (["--data", "a.json", "--against", tmp_path / "none"], "none"),
        (["--data", "a.json", "--judge-model", "m"], "need --judge, the address of the judge"),
        (["--data", "a.json", "--judge", "localhost", "--judge-model", "m"], "--judge: localhost is no address"),
    ]:
        status, _, error = run(capsys, model_folder, *wrong, "--out", out)
        assert status == 2 and told in error and len(error.splitlines()) == 1, error


def test_limit_counts_questions(model_folder, mixed_file, tmp_path, capsys):
    out = tmp_path / "predictions.jsonl"
    run(capsys, model_folder, "--data", mixed_file, "--out", out, "--limit", 2, "--max-new-tokens", 1)
    first = [question.text for each in read_conversations(Source(mixed_file)) for question in questions_of(each)][:2]
    assert [json.loads(line)["question"] for line in out.read_text().splitlines()] == first


def test_errors_are_one_line_and_leave_no_file(model_folder, media_folder, tmp_path, capsys):
    cut = tmp_path / "cut.mp4"
    cut.write_bytes((media_folder / "clip0.mp4").read_bytes()[:2000])
    for name, records in {
        "empty": [],
        "missing": [{"video": "nowhere.mp4", "conversations": turns("<video>\nWhat?", "x")}],
        "cut": [{"video": "cut.mp4", "conversations": turns("<video>\nWhat?", "x")}],
        "good": [{"conversations": turns("What?", "x")}],
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(records))
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.iterdir())
    for data, out, words in [
        ("nothing.json", "out.jsonl", "nothing.json: cannot read the data file"),
        ("empty.json", "out.jsonl", "there is no question to answer"),
        ("missing.json", "out.jsonl", "nowhere.mp4"),
        ("cut.json", "out.jsonl", "cut.mp4"),
        ("good.json", "file/out.jsonl", "cannot write"),
    ]:
        status, printed, error = run(capsys, model_folder, "--data", tmp_path / data, "--out", tmp_path / out)
        assert (status, printed) == (2, "") and "Traceback" not in error
        assert error.splitlines()[-1].startswith("error: ") and words in error.splitlines()[-1], error
    assert sorted(tmp_path.iterdir()) == before


def test_columns_and_turns_of_the_data(model_folder, tmp_path, capsys):
    records = [
        {"ask": "How?", "say": "red", "id": 3},
        {"ask": "What?", "say": "blue", "id": 4},
    ]
    data, out = tmp_path / "a.json", tmp_path / "out.jsonl"
    data.write_text(json.dumps({"data": records}))
    names = ["--column", "query=ask", "--column", "response=say"]
    words = [str(model_folder), "--data", str(data), "--out", str(out), "--max-new-tokens", "1"]
    app.run([*words, *names], "evaluate.py", evaluate_command)
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(each["id"], each["question"], each["expected"]) for each in answers] == [
        (3, "How?", "red"),
        (4, "What?", "blue"),
    ]
    data.write_text(json.dumps([{"messages": [{"who": "host", "says": "Hello"}, {"who": "guest", "says": "How?"}]},
                                {"messages": [{"who": "guest", "says": "How?"}]}]))  # fmt: skip
    tags = [
        each
        for tag in ("role_tag=who", "content_tag=says", "user_tag=guest", "assistant_tag=host")
        for each in ("--tag", tag)
    ]
    app.run([*words[:-3], str(tmp_path / "b.jsonl"), *words[-2:], *tags], "evaluate.py", evaluate_command)
    assert f"left out: 1 conversation without an answer: {data} record 2" in capsys.readouterr().out
    (only,) = map(json.loads, (tmp_path / "b.jsonl").read_text().splitlines())
    assert (only["question"], only["expected"]) == ("", "Hello")
    with pytest.raises(
        UserError, match="--column: 'ask=query' is not NAME=WHAT_THE_DATA_CALL_IT, where NAME is one of id"
    ):
        jobs_evaluate.named("--column", ["ask=query"], jobs_evaluate.KEYS)


def test_another_model_is_asked_the_same(model_folder, mixed_file, tmp_path, capsys):
    """A model against itself ties everywhere; its answers lie beside; both start anew once all is over."""
    out, summary = tmp_path / "new" / "out.jsonl", tmp_path / "new" / "scores.json"
    command = [model_folder, "--data", mixed_file, "--out", out, "--json", summary, "--max-new-tokens", 2]
    status, printed, _ = run(capsys, *command, "--limit", 4, "--against", model_folder)
    compared = json.loads(summary.read_text())["against"]
    assert status == 0 and (compared["questions"], compared["ties"], compared["changed"]) == (
        4,
        4,
        {"lost": [], "won": []},
    )
    assert f"against {model_folder}\n" in printed and "both          4" in printed
    beside = out.with_name("out.jsonl.against.jsonl")
    assert beside.read_bytes() == out.read_bytes()
    assert sorted(path.name for path in out.parent.iterdir()) == [out.name, beside.name, summary.name]


def test_an_interrupted_comparison_goes_on_with_what_either_model_has_answered(
    model_folder, mixed_file, tmp_path, capsys, monkeypatch
):
    command = [model_folder, "--data", mixed_file, "--limit", 4, "--batch-size", 1, "--max-new-tokens", 2]
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    assert run(capsys, *command, "--out", whole, "--against", model_folder)[0] == 0
    beside, append = tmp_path / "out.jsonl.against.jsonl", AnswerFile.append

    def then_stopped(self, answers):
        append(self, answers)
        if self.path == beside:
            raise UserError("stopped")

    monkeypatch.setattr(AnswerFile, "append", then_stopped)
    assert run(capsys, *command, "--out", out, "--against", model_folder)[0] == 2
    assert out.read_bytes() == whole.read_bytes() and 0 < beside.read_bytes().count(b"\n") < 4
    monkeypatch.setattr(AnswerFile, "append", append)
    status, printed, _ = run(capsys, *command, "--out", out, "--against", model_folder)
    told = printed.replace("\n", "")
    assert status == 0 and f"4 of 4 answers are in {out} already" in told
    assert f"of 4 answers are in {beside} already" in told
    assert beside.read_bytes() == whole.read_bytes()
    assert {path.name for path in tmp_path.glob("*out*")} == {out.name, beside.name}
