"""Conversations that several processes tokenise are those that one would, in the same order, with the same errors."""

import gc
import json
import os
import pickle
import signal
import subprocess
import sys
from itertools import chain, cycle

import pytest

from data.errors import UserError
from data.sources.source import Source, find_files
from data.tokens import corpus as corpora
from data.tokens import shares
from data.tokens.corpus import load_corpus
from data.tokens.encoded import Encoded
from data.tokens.shares import Encoding, Processes, Share, from_bytes, to_bytes


def records(number: int, folder) -> list[dict]:
    """Return records of several turns; each seventh is too long, each ninth has no answer, clips and parts recur."""
    found = []
    for i in range(number):
        turns = [{"role": "user", "content": f"<video>\nWhat colour {i}?"}, {"role": "assistant", "content": "red"}]
        if i % 7 == 6:
            turns[0]["content"] += " left" * 300
        if i % 9 == 8:
            turns[1]["train"] = False
        if i % 5 == 0:
            turns += [{"role": "user", "content": "<image>\nHow?"}, {"role": "assistant", "content": "fine thanks"}]
        record = {"messages": turns, "video": str(folder / f"clip{i % 4}.mp4")}
        found.append({**record, **({"start": i % 3} if i % 2 else {})})
        if i % 5 == 0:
            found[-1]["image"] = str(folder / f"picture{i % 3}.png")
    return found


@pytest.fixture(autouse=True)
def collector():
    """Undo what a share does to the process that is its own elsewhere."""
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


@pytest.fixture
def encoding(processor, visual_tokens, media_folder, tmp_path):
    def make(number: int, change=lambda found: found) -> Encoding:
        lines = [json.dumps(record) for record in change(records(number, media_folder))]
        path = tmp_path / "train.jsonl"
        path.write_text("\n".join(lines))
        sources = [Source(path), Source(path)]
        return Encoding(sources, list(map(find_files, sources)), processor.tokenizer, visual_tokens, 200, "Be brief.")

    return make


def alone(encoding: Encoding) -> Encoded:
    encoded = Encoded(encoding.new_samples())
    for pair in chain.from_iterable(encoding.encode(encoding.conversations())):
        encoded.extend([pair], encoding.visual_tokens)
    return encoded


def contents(encoded: Encoded) -> dict[str, list[int]]:
    return {name: column.view().tolist() for name, column in encoded.columns().items()}


@pytest.mark.parametrize("num_shares", [2, 3])
@pytest.mark.parametrize(("number", "part"), [(20, 7), (14, 7), (3, 7), (20, 1)])
def test_shares_are_joined_to_the_whole(num_shares, number, part, encoding, tmp_path, monkeypatch):
    monkeypatch.setattr(shares, "PART", part)
    whole = encoding(number)
    expected = alone(whole)
    (tmp_path / "encoding").write_bytes(pickle.dumps(whole))
    each = [pickle.loads(pickle.dumps(Share(str(tmp_path / "encoding"), n, num_shares))) for n in range(num_shares)]
    for first in (0, 5):
        joined = Encoded(whole.new_samples())
        for several in whole.encode(whole.conversations(lambda record, first=first: record < first)):
            joined.extend(several, whole.visual_tokens)
        for share in cycle(each):
            share._parts = share._parts if joined.num_read > first else None
            if (content := share(first)) is None:
                break
            joined.join(from_bytes(content))
        assert contents(joined) == contents(expected)
        each = [pickle.loads(pickle.dumps(Share(str(tmp_path / "encoding"), n, num_shares))) for n in range(num_shares)]
    assert expected.too_long or number < 7
    assert list(joined.samples) == list(expected.samples)


def test_a_part_travels_as_it_is(encoding):
    expected = alone(encoding(12))
    assert contents(from_bytes(to_bytes(expected))) == contents(expected)
    assert contents(from_bytes(to_bytes(Encoded()))) == contents(Encoded())


@pytest.fixture
def few(monkeypatch):
    """Divide few conversations among two real processes."""
    monkeypatch.setattr(corpora, "MIN_DIVIDED", 128)
    monkeypatch.setattr(corpora, "num_processes", lambda is_for_all: 2)
    monkeypatch.setattr(Processes, "are_ready", wait_until_ready)


ARE_READY = Processes.are_ready


def wait_until_ready(processes: Processes) -> bool:
    while not ARE_READY(processes) and processes._processes:
        shares.wait_for_any([process for process in processes._processes if process.is_busy])
    return bool(processes._processes)


def load(encoding: Encoding):
    """Return the corpus, or the error, and how many conversations this process tokenised itself."""
    with pytest.MonkeyPatch.context() as patch:
        own, encode = [], Encoding.encode
        patch.setattr(
            Encoding, "encode", lambda self, found: (own.extend(each) or each for each in encode(self, found))
        )
        try:
            found = load_corpus(encoding.sources, encoding.tokenizer, encoding.visual_tokens, 200, "Be brief.", 1)
            return contents(found), found.unreadable, len(own)
        except UserError as problem:
            return str(problem), problem.record, len(own)


def test_processes_give_the_same_corpus_and_the_same_error(encoding, few, monkeypatch, capfd):
    def break_one(found):
        found[2300]["messages"][0]["content"] = "<video>\n</s>"
        found[2400] = {"what": "is this"}
        return found

    def lose_clip(found):
        found[800]["video"] = "nowhere.mp4"
        return found

    for change, num_own in ((lose_clip, 128), (break_one, 2300)):
        whole = encoding(2500, change)
        divided = load(whole)
        monkeypatch.setattr(corpora, "num_processes", lambda is_for_all: 1)
        expected = load(whole)
        monkeypatch.setattr(corpora, "num_processes", lambda is_for_all: 2)
        assert divided[:2] == expected[:2]
        assert divided[2] < expected[2] if change is break_one else divided[2] == num_own < expected[2] == 5000
    assert divided[1].endswith("record 2301") and "the text holds the special token '</s>'" in divided[0]
    assert capfd.readouterr().err == ""


def test_a_process_that_is_killed_is_done_without(encoding, few, monkeypatch):
    whole, read = encoding(1500), Processes.read
    expected = contents(alone(whole))

    def kill_one(processes, first, take):
        os.kill(processes._processes[1]._process.pid, signal.SIGKILL)
        return read(processes, first, take)

    monkeypatch.setattr(Processes, "read", kill_one)
    found, _, num_own = load(whole)
    assert found == expected and num_own == 3000 - shares.PART


def test_processes_need_no_torch(encoding, tmp_path):
    # But for what the tokenizers of transformers 5.17 import themselves.
    code = "import sys, transformers; transformers.PreTrainedTokenizerFast; before = 'torch' in sys.modules\n"
    code += "import pickle, data.tokens.shares; pickle.load(open(sys.argv[1], 'rb')); "
    code += "print(not before and 'torch' in sys.modules)"
    (tmp_path / "encoding").write_bytes(pickle.dumps(encoding(1)))
    command = [sys.executable, "-c", code, str(tmp_path / "encoding")]
    assert subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout == "False\n"


@pytest.mark.parametrize(("min_letters", "first_asked_after"), [(10**9, 256), (1, 128)])
def test_a_large_set_is_divided_from_the_first_batch_on(min_letters, first_asked_after, encoding, monkeypatch):
    asked, advanced, whole = [], [], encoding(200)
    monkeypatch.setattr(corpora, "MIN_LETTERS", min_letters)
    monkeypatch.setattr(corpora, "MIN_DIVIDED", 200)
    monkeypatch.setattr(Processes, "are_ready", lambda self: asked.append(sum(advanced)) or False)
    encode = Encoding.encode
    monkeypatch.setattr(
        Encoding, "encode", lambda self, found: (advanced.append(len(each)) or each for each in encode(self, found))
    )
    load(whole)
    assert asked[0] == first_asked_after
