"""A bad record costs itself, in one line that names it, whatever is wrong with it and whatever file it stands in."""

import gzip
import json
import struct
import tarfile
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.errors import UserError
from data.inspection.check import read_contents
from data.media.reference import Downloads
from data.packing.streaming import RowStream
from data.sources import arrow_files, guard, json_records, record_batches
from data.sources.conversation import read_conversations
from data.sources.source import Source, read_records
from data.tokens import encoding
from data.tokens.corpus import load_corpus
from data.tokens.encoding import encode_all
from tests.source_samples import write_tar
from tests.tiny_data import turns

GOOD = '{"id": "good", "conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "fine"}]}'
TEMPLATE = '{"conversations": [{"from": "human", "value": %s}, {"from": "gpt", "value": "fine"}]}'
CLIP = '{"video": %s, "conversations": [{"from": "human", "value": "<video>What?"}, {"from": "gpt", "value": "red"}]}'
PARTS = '{"messages": [{"role": "user", "content": [%s]}, {"role": "assistant", "content": "red"}]}'
# What a record holds -> words of the line about it.
BAD = {
    "nested 100,000 deep": ('{"x": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
    "nested 900 deep": (TEMPLATE % ("[" * 900 + "]" * 900), "is none of text, image, video"),
    "5,000 digits": ('{"x": %s}' % ("9" * 5000), "4300 digits"),
    "a time of 10^400": ('{"start": 1' + "0" * 400 + "," + (CLIP % '"a.mp4"')[1:], "start: expected seconds"),
    "a rate of 10^400": (
        PARTS % ('{"type": "video", "frames": [{"bytes": "eHg="}], "fps": 1%s}' % ("0" * 400)),
        "fps: expected",
    ),
    "a list for a type": (PARTS % '{"type": []}', "part {'type': []} is none of"),
    "an object for a type": (PARTS % '{"type": {"a": 1}}', "is none of text, image, video"),
    "a list for a role": ('{"messages": [{"role": [], "content": "x"}]}', "role [] is none of"),
    "a number for a path": (PARTS % '{"type": "video", "path": 5}', "path must be a text"),
    "base64 that is none": (PARTS % '{"type": "image", "bytes": "###"}', "bytes: not base64"),
    "base64 that is not ASCII": (PARTS % '{"type": "image", "bytes": "äöü"}', "bytes: not base64"),
    "a NUL in a path": (CLIP % '"a\\u0000.mp4"', "cannot be the name of a file: it has a NUL"),
    "half an emoji in a path": (CLIP % '"a\\ud83d.mp4"', "cannot be the name of a file"),
    "half an emoji in a text": (TEMPLATE % '"nice \\ud83d"', "half of a character"),
    "half an emoji in a role": ('{"messages": [{"role": "\\ud83d", "content": "x"}]}', "role '\\ud83d' is none of"),
    "a host without a name": (CLIP % '"http://a..b/x.mp4"', "'a..b' cannot be the name of a host"),
    "a port of 8 digits": (CLIP % '"http://a:99999999/x.mp4"', "not an address (Port out of range"),
    "half an emoji in an address": (CLIP % '"http://a/\\ud83d.mp4"', "not an address"),
    "a control character in an address": (CLIP % '"http://a/\\u0000.mp4"', "it has control characters"),
    "no object": ("5", "expected an object, got 5"),
    "a list in its place": ("[[]]", "expected an object, got ["),
    "two million letters": (TEMPLATE % json.dumps("x" * 2_000_000), "2,000,004 letters in 2 messages are more than"),
    "2,000 turns": (json.dumps({"conversations": turns("a", "b") * 1000}), "letters in 2,000 messages are more"),
    "a special token": (TEMPLATE % '"</s>"', "special token '</s>'"),
    "a key twice": (TEMPLATE[:-1] % '"x"' + ', "conversations": []}', "its key 'conversations' is given twice; keep"),
    "a key twice in a turn": (TEMPLATE % '"x", "value": "y"', "its key 'value' is given twice; keep one"),
    "a key twice, spelled otherwise": ('{"video" : "a", "vide\\u006f" : "b"}', "its key 'video' is given twice"),
    "a bare word": ('{"x": nought}', "not JSON"),
    "an unfinished escape": ('{"x": "\\u12"}', "not JSON"),
}
IN_JSON = {"json": lambda texts: "[" + ",\n".join(texts) + "]", "jsonl": "\n".join}


def write(path: Path, texts: list[str]) -> Path:
    if path.suffix == ".tar":
        return write_tar(path, {f"{number}.json": text.encode() for number, text in enumerate(texts)})
    path.write_text(IN_JSON[path.suffix[1:]](texts))
    return path


@pytest.fixture
def everything(processor, visual_tokens):
    """Read a file as the check does, as training does and as streaming does: (conversations, their problems)."""

    def read(path: Path):
        source = Source(path, downloads=Downloads(str(path.parent / "cache")))
        contents = read_contents([source], processor.tokenizer, visual_tokens, 4096)
        lines = [f"{problem.row} {problem.reason}" for problem in contents.problems]
        if lines:
            with pytest.raises(UserError) as refused:
                load_corpus([source], processor.tokenizer, visual_tokens, 4096)
            stream = RowStream(
                [], lambda: read_conversations(source),
                lambda found: encode_all(found, processor.tokenizer, visual_tokens, 4096),
                lambda samples, seed: pytest.fail("nothing may be packed"), window=9, max_length=4096, seed=0,
            )  # fmt: skip
            with pytest.raises(UserError) as refused_later:
                next(stream.steps(1))
            assert str(refused.value) == str(refused_later.value) and "\n" not in str(refused.value)
        return len(contents.samples), lines

    return read


@pytest.mark.parametrize("form", ["json", "jsonl", "tar"])
@pytest.mark.parametrize("what", BAD)
def test_a_bad_record_costs_itself_alone(what, form, tmp_path, everything):
    text, words = BAD[what]
    num_read, (line,) = everything(write(tmp_path / f"train.{form}", [GOOD, text, GOOD]))
    assert num_read == 2 and words in line and len(line) < 700 and line.isprintable()
    assert line.startswith({"tar": f"{tmp_path}/train.tar 1.json "}.get(form, f"{tmp_path}/train.{form} "))
    assert " record 2 " in line or " line 2 " in line or " 1.json " in line


@pytest.mark.parametrize("form", ["json", "jsonl", "tar"])
def test_a_record_that_is_too_large_is_passed_over_in_little_memory(form, tmp_path, everything, monkeypatch):
    """Lower the limit from 64 MiB, which would take longer."""
    for module in (json_records, guard):
        monkeypatch.setattr(module, "MAX_RECORD", 2**20)
    path = write(tmp_path / f"train.{form}", [GOOD, TEMPLATE % json.dumps(("x" * 900 + ' "word" ') * 3_000), GOOD])
    tracemalloc.start()
    num_read, (line,) = everything(path)
    assert num_read == 2 and "is larger than 64 MiB" in line
    assert tracemalloc.get_traced_memory()[1] < 40 * 2**20
    tracemalloc.stop()


def test_a_record_of_very_many_objects_is_refused_before_it_is_read(tmp_path, everything):
    path = write(tmp_path / "train.jsonl", [GOOD, json.dumps({"x": [{}] * 140_000}), GOOD])
    num_read, (line,) = everything(path)
    assert num_read == 2 and "has more than 131,072 objects and lists" in line


def test_the_search_for_the_end_of_a_record_has_an_end(tmp_path, everything, monkeypatch):
    monkeypatch.setattr(json_records, "MAX_STEPS", 1000)
    num_read, lines = everything(write(tmp_path / "train.json", [GOOD, "[" * 2000, GOOD]))
    assert num_read == 1 and "it and what follows it in the file are not read" in lines[0]


@pytest.mark.parametrize(
    ("text", "num_read", "words"),
    [
        (f"[{GOOD}, {GOOD}", 2, "ends before the bracket that closes its list"),
        (f"[{GOOD}, {{", 1, "not JSON"),
        (f"[{GOOD}] {GOOD}", 1, "something stands behind the bracket"),
        (f"[{GOOD},]", 1, "record 2 not JSON: Expecting value"),
        (f"[{GOOD} {GOOD}, {GOOD}]", 1, "record 1 not JSON: Extra data"),
        (f"[{GOOD}}}, {GOOD}]", 1, "record 1 not JSON: Extra data"),
        ("[", 0, "ends within record 1: not JSON: Expecting value"),
        (f'[{GOOD}, {{"x": "\xff"}}, {GOOD}]', 2, "record 2 cannot be read: ValueError: not text in UTF-8"),
        (f'{GOOD}\n{{"x": "\xff"}}\n{GOOD}', 2, "line 2 cannot be read: ValueError: not text in UTF-8"),
        ("\xff\xfe[\0]\0", 0, "not a text file in UTF-8"),
        ("[\0]\0", 0, "not a text file in UTF-8"),
        ("\x1f\x8b\x08", 0, "is compressed; unpack it (gunzip)"),
        (
            '{\n "x": 1\n}\n{\n "x": 1\n}\n',
            0,
            "begins with an object over several lines; write a list of records, or each",
        ),
    ],
)
def test_a_list_that_is_damaged_gives_what_is_sound_in_it(text, num_read, words, tmp_path, everything):
    (tmp_path / "train.json").write_bytes(text.encode("latin-1"))
    found, lines = everything(tmp_path / "train.json")
    assert found == num_read and words in lines[0]


@pytest.mark.parametrize("piece", [1, 7, 100])
def test_a_list_is_the_same_whatever_pieces_it_is_read_in(piece, tmp_path, monkeypatch):
    values = [{"a": ['\\"', "[{", {"é": '",'}, 1.5e3]}, [], {}, "x]", 12345, None, [[], [{}]]]
    (tmp_path / "train.json").write_text(json.dumps(values, indent=1))
    monkeypatch.setattr(json_records, "PIECE", piece)
    assert [record.content for record in json_records.read_json(str(tmp_path / "train.json"), pytest.fail)] == values


@pytest.mark.parametrize(
    "error", [RuntimeError("a\nb\x1b[31m"), MemoryError(), RecursionError(), KeyError("x"), OSError(5, "x")]
)
def test_whatever_is_raised_over_a_record_names_it(error, tmp_path, everything, monkeypatch, tokenizer_breaks):
    tokenizer_breaks(error)
    num_read, lines = everything(write(tmp_path / "train.json", [GOOD, TEMPLATE % '"break me"', GOOD]))
    assert num_read == 2 and len(lines) == 1 and "train.json record 2 " in lines[0] and lines[0].isprintable()


@pytest.fixture
def tokenizer_breaks(monkeypatch):
    def install(error):
        tokenise = encoding.tokenise

        def breaking(texts, tokenizer):
            if "break me" in str(texts):
                raise error
            return tokenise(texts, tokenizer)

        monkeypatch.setattr(encoding, "tokenise", breaking)

    return install


# Tables.

TURNS = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))


def table_of(*questions: str) -> pa.Table:
    return pa.table({"conversations": pa.array([turns(question, "fine") for question in questions], TURNS)})


def write_table(path: Path, table: pa.Table, **options) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(table, path, **options)
    else:
        with pa.ipc.new_file(path, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
            writer.write_table(table)
    return path


@pytest.mark.parametrize(("form", "options"), [("parquet", {}), ("arrow", {}), ("arrow", {"compression": "zstd"})])
def test_a_large_record_of_a_table_costs_itself_alone(form, options, tmp_path, everything, monkeypatch):
    monkeypatch.setattr(record_batches, "MAX_RECORD", 2**20)
    path = write_table(tmp_path / f"train.{form}", table_of("Hello", "x" * 2**21, "Hi"), **options)
    num_read, (line,) = everything(path)
    assert num_read == 2 and "record 2 is larger than 64 MiB" in line


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_values_that_are_written_once_and_meant_a_thousand_times_do_not_fill_memory(form, tmp_path):
    """The file has a few kB, its records 2 GB."""
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 1000, pa.int32()), ["x" * 2**21])
    path = write_table(
        tmp_path / f"train.{form}", pa.table({"id": text}), **({"compression": "zstd"} if form == "parquet" else {})
    )
    before = pa.total_allocated_bytes()
    for record in read_records(str(path), Downloads("none"), pytest.fail):
        assert len(record.content["id"]) == 2**21 and pa.total_allocated_bytes() - before < 2**30


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("value", [-5, 10**6, 2**31 - 1])
def test_offsets_that_lead_out_of_an_arrow_file_are_never_followed(place, value, tmp_path, everything):
    """Each offset of a list and of a text; pyarrow by itself reads there, or dies."""
    path = write_table(tmp_path / "train.arrow", table_of("Hello", "Hi", "Ho"))
    content = path.read_bytes()
    for offsets in ([0, 2, 4, 6], [0, 5, 8, 13, 16, 21, 24], [0, 5, 9, 11, 15, 17, 21]):
        whole = struct.pack(f"<{len(offsets)}i", *offsets)
        assert content.count(whole) == 1
        at = content.index(whole) + 4 * (place + 1)
        path.write_bytes(content[:at] + struct.pack("<i", value) + content[at + 4 :])
        num_read, lines = everything(path)
        assert num_read == 0 and all("Invalid" in line for line in lines)


def test_a_list_of_a_billion_nothings_is_refused(tmp_path, everything):
    nothings = pa.ListArray.from_arrays(pa.array([0, 2**30], pa.int32()), pa.nulls(2**30))
    num_read, (line,) = everything(write_table(tmp_path / "train.arrow", pa.table({"conversations": nothings})))
    assert num_read == 0 and "record 1 is larger than" in line
    num_read, (line,) = everything(write_table(tmp_path / "train.arrow", pa.table({"id": pa.nulls(2**31 - 1)})))
    assert num_read == 0 and "it claims 2,147,483,647 records in" in line


def test_a_batch_that_unpacks_to_gigabytes_is_refused_before_it_is_unpacked(tmp_path, everything, monkeypatch):
    monkeypatch.setattr(arrow_files, "MAX_UNPACKED", 2**20)
    path = write_table(tmp_path / "train.arrow", table_of(*["x" * 1000] * 2000), compression="zstd")
    before = pa.default_memory_pool().max_memory()
    num_read, (line,) = everything(path)
    assert num_read == 0 and "a batch of it unpacks to 2 MiB; write smaller batches" in line
    assert path.stat().st_size < 2**17 and pa.default_memory_pool().max_memory() <= max(before, 2**25)


@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_bytes_in_a_table_that_are_no_text_cost_their_record(form, tmp_path, everything):
    path = write_table(
        tmp_path / f"train.{form}",
        table_of("Hello", "breaks"),
        **({"compression": "none"} if form == "parquet" else {}),
    )
    path.write_bytes(path.read_bytes().replace(b"breaks", b"br\xff\xfeks"))
    num_read, (line,) = everything(path)
    assert num_read == 1 and "record 2 cannot be read: UnicodeDecodeError" in line


# Tar shards.


def raw_header(name: str, size: bytes, kind: bytes = b"0") -> bytes:
    """Return a member's header with any twelve bytes for its size."""
    header = tarfile.TarInfo(name)
    header.type = kind
    block = bytearray(header.tobuf(tarfile.USTAR_FORMAT))
    block[124:136], block[148:156] = size, b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def binary(number: int) -> bytes:
    return bytes([255 if number < 0 else 128]) + (number % 2**88).to_bytes(11, "big")


END = bytes(1024)
RECORD = raw_header("good.json", b"%011o\0" % len(GOOD)) + GOOD.encode() + bytes(-len(GOOD) % 512)
PAX_SIZE = b"29 size=99999999999999999999\n"
SHARDS = {
    "JSON of 10^14 bytes": raw_header("a.json", binary(10**14)) + RECORD + END,
    "a clip of 10^14 bytes": raw_header("a.mp4", binary(10**14)) + RECORD + END,
    "a size below nothing": RECORD + raw_header("a.json", binary(-1024)) + END,
    "a folder with a size below nothing": RECORD + raw_header("a", binary(-1536), b"5") + END,
    "pax headers of 10^14 bytes": raw_header("a", binary(10**14), b"x") + END,
    "pax headers of less than nothing": raw_header("a", binary(-1024), b"x") + RECORD + END,
    "a name of 10^9 letters": raw_header("a", binary(10**9), b"L") + bytes(10**6) + END,
    "3,000 pax headers in a chain": raw_header("a", b"0" * 11 + b"\0", b"x") * 3000 + END,
    "3,000 long names in a chain": raw_header("a", b"0" * 11 + b"\0", b"L") * 3000 + END,
    "a pax size of 10^20": raw_header("a", b"%011o\0" % len(PAX_SIZE), b"x") + PAX_SIZE + bytes(483) + RECORD + END,
    "pax digits": raw_header("a", b"%011o\0" % 60_000, b"x") + b"1" * 60_000 + bytes(416) + RECORD + END,
    "a sparse file that is cut": raw_header("a", b"0" * 11 + b"\0", b"S")[:482] + b"\1" + bytes(29),
}


@pytest.mark.parametrize("what", SHARDS)
def test_a_shard_that_lies_about_sizes_is_refused_in_one_line(what, tmp_path, everything):
    (tmp_path / "train.tar").write_bytes(SHARDS[what])
    num_read, (line,) = everything(tmp_path / "train.tar")
    assert num_read == 0 and "None is" in line and "tar file" in line or "its JSON is more than 1024 MiB" in line


def test_a_bomb_that_is_packed_is_not_unpacked(tmp_path, everything):
    (tmp_path / "train.tar").write_bytes(gzip.compress(RECORD + END))
    num_read, (line,) = everything(tmp_path / "train.tar")
    assert num_read == 0 and "is compressed, so its members cannot be read one by one" in line


def test_a_bad_record_in_a_list_of_a_shard_costs_itself(tmp_path, everything):
    shard = write_tar(tmp_path / "train.tar", {"a.json": f"[{GOOD}, {{]}}, {GOOD}]".encode(), "b.json": GOOD.encode()})
    num_read, (line,) = everything(shard)
    assert num_read == 3 and f"{shard} a.json record 2 not JSON" in line
