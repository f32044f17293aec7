"""Arrow files and streams of records, mapped: every offset in them is checked before anything follows it.

The media in them become ranges of the file.
"""

import struct
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise, repeat
from typing import Any

import numpy as np
import pyarrow as pa

from data.errors import UserError
from data.media.reference import Segment
from data.sources.record_batches import RECORDS_AT_ONCE, each_record

MAGIC = b"ARROW1"  # begins and ends a file; a stream, as `datasets` writes it, has none
MAX_UNPACKED = 2**30  # bytes of a batch that is compressed
MAX_PER_BYTE = 1024  # records: more of them say nothing
RECORD_BATCH, DICTIONARY_BATCH = 3, 2  # kinds of messages, in Arrow's Message.fbs


def arrow_records(path: str, select: Callable[[Iterable[str]], list[str]]) -> Iterator[Any]:
    """Yield the columns that `select` chooses of each record, or the error that keeps it from being read.

    Raises UserError and pyarrow's errors where no more records can be found.
    """
    with pa.memory_map(path) as file:
        whole = file.read_buffer()
        stream = whole
        if whole[: len(MAGIC)].to_pybytes() == MAGIC:  # a stream follows; the index at the end is another way to it
            if whole[-len(MAGIC) :].to_pybytes() != MAGIC:
                raise pa.ArrowInvalid("it has no end mark")
            stream = whole[8:]
        reader = pa.ipc.open_stream(stream)
        _check_messages(stream, path, has_bytes=any(_holds_bytes(field.type) for field in reader.schema))
        wanted = [name for name in select(reader.schema.names) if reader.schema.get_field_index(name) >= 0]
        for batch in reader:
            if batch.num_rows > MAX_PER_BYTE * whole.size:
                raise pa.ArrowInvalid(f"it claims {batch.num_rows:,} records in {whole.size:,} bytes")
            batch = batch.select(wanted)
            try:
                _validate(batch)
            except pa.ArrowInvalid as error:
                yield from repeat(error, batch.num_rows)
                continue
            for start in range(0, batch.num_rows, RECORDS_AT_ONCE):
                yield from each_record(batch.slice(start, RECORDS_AT_ONCE), lambda part: _to_values(part, path, whole))


def _validate(batch: pa.RecordBatch) -> None:
    """Raise ArrowInvalid where any offset, length or index in a batch leads out of it.

    Texts that are not UTF-8 are left to the records that have them.
    """
    batch.validate()
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid as error:
        if "UTF8" not in str(error):
            raise
        fields = [pa.field(field.name, _as_bytes(field.type)) for field in batch.schema]
        batch.cast(pa.schema(fields)).validate(full=True)


def _as_bytes(kind: pa.DataType) -> pa.DataType:
    """Return a type with bytes in place of texts."""
    if pa.types.is_string(kind):
        return pa.binary()
    if pa.types.is_large_string(kind):
        return pa.large_binary()
    if pa.types.is_list(kind):
        return pa.list_(_as_bytes(kind.value_type))
    if pa.types.is_large_list(kind):
        return pa.large_list(_as_bytes(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _as_bytes(field.type)) for field in kind])
    return kind


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return True
    return any(_holds_bytes(kind.field(number).type) for number in range(kind.num_fields))


def _check_messages(stream: pa.Buffer, path: str, has_bytes: bool) -> None:
    """Raise UserError for compressed batches that would take all memory, or that hold media."""
    messages = pa.ipc.MessageReader.open_stream(pa.BufferReader(stream))
    while True:
        try:
            message = messages.read_next_message()
        except StopIteration:
            return
        size = _unpacked_size(message)
        if size and has_bytes:
            raise UserError(f"{path}: its bytes are compressed: write it without compression, or as Parquet")
        if size > MAX_UNPACKED:
            raise UserError(f"{path}: a batch of it unpacks to {size / 2**20:,.0f} MiB; write smaller batches")


def _unpacked_size(message: pa.Message) -> int:
    """Return how many bytes a compressed batch says it unpacks to; 0 for one that is not compressed.

    pyarrow shows nothing of this before it unpacks, so three of the tables in Message.fbs are read here.
    """
    data, body = message.metadata, message.body

    def number(form: str, at: int) -> int:
        return struct.unpack_from(form, data, at)[0]

    def field(table: int, place: int) -> int:
        places = table - number("<i", table)
        offset = number("<H", places + 4 + 2 * place) if 4 + 2 * place < number("<H", places) else 0
        return table + offset if offset else 0

    def follow(at: int) -> int:
        return at + number("<I", at)

    header, kind = field(follow(0), 2), field(follow(0), 1)
    if not header or not kind or body is None or number("<B", kind) not in (RECORD_BATCH, DICTIONARY_BATCH):
        return 0
    batch = follow(header)
    if number("<B", kind) == DICTIONARY_BATCH:
        batch = follow(field(batch, 1))
    if not field(batch, 3) or not field(batch, 2):
        return 0
    buffers, total = follow(field(batch, 2)), 0
    for place in range(number("<I", buffers)):
        start, length = struct.unpack_from("<qq", data, buffers + 4 + 16 * place)
        if length > 0:
            total += max(length, struct.unpack_from("<q", body, start)[0])  # -1: as it is
    return total


def _to_values(batch: pa.RecordBatch, path: str, whole: pa.Buffer) -> list[dict]:
    columns = [_values(column, path, whole) for column in batch.columns]
    names = batch.schema.names
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)] or [{}] * batch.num_rows


def _values(array: pa.Array, path: str, whole: pa.Buffer) -> list:
    """Do what `to_pylist` does, with ranges of the file `whole` in place of bytes."""
    if isinstance(array, pa.BinaryArray | pa.LargeBinaryArray):
        values = _segments(array, path, whole)
    elif isinstance(array, pa.StructArray):
        names = [field.name for field in array.type]
        columns = [_values(array.field(place), path, whole) for place in range(len(names))]
        values = [dict(zip(names, items, strict=True)) for items in zip(*columns, strict=True)]
    elif isinstance(array, pa.ListArray | pa.LargeListArray) and not isinstance(array, pa.MapArray):
        ends = array.offsets.to_pylist() or [0]
        items = _values(array.values.slice(ends[0], ends[-1] - ends[0]), path, whole)
        values = [items[start - ends[0] : end - ends[0]] for start, end in pairwise(ends)]
    else:
        return array.to_pylist()
    return [value if valid else None for value, valid in zip(values, array.is_valid().to_pylist(), strict=True)]


def _segments(array: pa.BinaryArray | pa.LargeBinaryArray, path: str, whole: pa.Buffer) -> list[Segment]:
    if not len(array):
        return []
    _, offsets, content = array.buffers()
    width = np.int64 if isinstance(array, pa.LargeBinaryArray) else np.int32
    ends = np.frombuffer(offsets, width)[array.offset : array.offset + len(array) + 1].tolist()
    start = content.address - whole.address if content else 0
    if not 0 <= start <= whole.size - ends[-1]:
        raise pa.ArrowInvalid("its bytes lie outside of the file")
    return [Segment(path, start + begin, end - begin) for begin, end in pairwise(ends)]
