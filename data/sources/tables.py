"""Parquet and Arrow files of records; media are paths, bytes, {"bytes", "path"}, or lists of these.

Bytes are not read with the records. In an Arrow file they are a range of the file; in a Parquet file, whose pages are
compressed, they are found again by column and number of the record.
"""

import os
from collections.abc import Callable, Iterator
from itertools import pairwise, repeat
from pathlib import PurePath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import UserError
from data.media.reference import KINDS, Cell, Segment
from data.sources.json_records import Record

MEDIA = (*KINDS, *(kind + "s" for kind in KINDS))
COLUMNS = ("id", "accept", "start", "end", "conversations", "messages", *MEDIA)
SUFFIXES = (".parquet", ".arrow")
RECORDS_AT_ONCE = 256  # few enough to be light, many enough for pyarrow not to be slowed down by calls


def read_table(path: str, on_problem: Callable[[UserError], None]) -> Iterator[Record]:
    """Read records in the file's order, of the columns that a record may have."""
    try:
        with open(path, "rb"):  # whose errors are clearer
            pass
        records = _parquet_records(path) if path.endswith(".parquet") else _arrow_records(path)
        for number, record in enumerate(records, start=1):
            content = {key: value for key, value in record.items() if value is not None}
            yield Record(content, f"{path} record {number}")
    except pa.ArrowException as error:
        reason = " ".join(str(error).split())
        on_problem(UserError(f"{path}: is damaged or not a {path.rpartition('.')[2]} file ({reason}); copy it again"))
    except OSError as error:
        on_problem(UserError(f"{path}: cannot read the data file: {error.strerror or error}"))


def shown_path(file: str, number: int, name: str | None, place: str) -> str:
    """Name bytes of a table's record, counted from 1, for messages; the original's name ends it where there is one."""
    return os.path.join(file, f"record {number}", PurePath(name or place).name)


def _parquet_records(path: str) -> Iterator[dict]:
    with pq.ParquetFile(path) as file:
        leaves = [file.schema.column(number) for number in range(len(file.schema.names))]
        content = {leaf.path: _column(leaf) for leaf in leaves if _column(leaf) in MEDIA and _is_bytes(leaf)}
        light = [leaf.path for leaf in leaves if _column(leaf) in COLUMNS and leaf.path not in content]
        has_light = {leaf.partition(".")[0] for leaf in light}
        number = 0
        for group in range(file.num_row_groups):
            present = {leaf: column for leaf, column in content.items() if _num_null(file, group, leaf)[1]}
            shapes = {leaf: _shapes(file, group, leaf) for leaf, column in present.items() if column not in has_light}
            for batch in file.iter_batches(RECORDS_AT_ONCE, [group], light, use_threads=False):
                for record in batch.to_pylist():
                    for leaf, column in present.items():
                        value = next(shapes[leaf]) if leaf in shapes else record[column]
                        record[column] = _with_cells(path, leaf, column, number, value)
                    yield record
                    number += 1


def _column(leaf: pq.ColumnSchema) -> str:
    return leaf.path.partition(".")[0]


def _is_bytes(leaf: pq.ColumnSchema) -> bool:
    return leaf.physical_type == "BYTE_ARRAY" and leaf.logical_type.type == "NONE"


def _num_null(file: pq.ParquetFile, group: int, leaf: str) -> tuple[int, int]:
    """Count the values of a part of the file that are null and those that are not; (1, 1) where it does not say."""
    row_group = file.metadata.row_group(group)
    (chunk,) = (chunk for chunk in map(row_group.column, range(row_group.num_columns)) if chunk.path_in_schema == leaf)
    if chunk.statistics is None or not chunk.statistics.has_null_count:
        return 1, 1
    return chunk.statistics.null_count, chunk.num_values - chunk.statistics.null_count


def _shapes(file: pq.ParquetFile, group: int, leaf: str) -> Iterator:
    """Tell record by record what a column has that holds nothing but bytes: {}, a list of them, or None without any."""
    if "." not in leaf and not _num_null(file, group, leaf)[0]:
        return repeat({})
    return (_shape(batch.column(0)[0].as_py()) for batch in file.iter_batches(1, [group], [leaf], use_threads=False))


def _shape(value: Any) -> dict | list | None:
    if isinstance(value, list):
        return [_shape(each) for each in value]
    return None if value is None else {}


def _with_cells(path: str, leaf: str, column: str, number: int, value: Any) -> Any:
    """Return the value of a media column, read without its bytes, with references to these."""
    if isinstance(value, list):
        return [
            _with_cell(Cell(path, leaf, number, item), each, f"{column} {item + 1}") for item, each in enumerate(value)
        ]
    return _with_cell(Cell(path, leaf, number), value, column)


def _with_cell(cell: Cell, value: dict | None, place: str) -> dict | None:
    if value is None:
        return None
    return {"bytes": cell, "path": shown_path(cell.file, cell.record + 1, value.get("path"), place)}


def _arrow_records(path: str) -> Iterator[dict]:
    with pa.memory_map(path) as file:
        whole = file.read_buffer()
        try:
            reader = pa.ipc.open_file(whole)
            batches = map(reader.get_batch, range(reader.num_record_batches))
        except pa.ArrowInvalid:
            batches = pa.ipc.open_stream(whole)  # as `datasets` writes them
        number = 0
        for batch in batches:
            names = [name for name in batch.schema.names if name in COLUMNS]
            columns = [_values(batch[name], path, whole) for name in names]
            for values in zip(*columns, strict=True):
                number += 1
                yield {name: _named(value, path, number, name) for name, value in zip(names, values, strict=True)}


def _values(array: pa.Array, path: str, whole: pa.Buffer) -> list:
    """Do what `to_pylist` does, with ranges of the file `whole` in place of bytes."""
    if isinstance(array, pa.BinaryArray | pa.LargeBinaryArray):
        values = _segments(array, path, whole)
    elif isinstance(array, pa.StructArray):
        names = [field.name for field in array.type]
        columns = [_values(array.field(name), path, whole) for name in names]
        values = [dict(zip(names, items, strict=True)) for items in zip(*columns, strict=True)]
    elif isinstance(array, pa.ListArray | pa.LargeListArray):
        items, ends = _values(array.values, path, whole), array.offsets.to_pylist()
        values = [items[start:end] for start, end in pairwise(ends)]
    else:
        return array.to_pylist()
    return [value if valid else None for value, valid in zip(values, array.is_valid().to_pylist(), strict=True)]


def _segments(array: pa.BinaryArray | pa.LargeBinaryArray, path: str, whole: pa.Buffer) -> list[Segment]:
    _, offsets, content = array.buffers()
    width = np.int64 if isinstance(array, pa.LargeBinaryArray) else np.int32
    ends = np.frombuffer(offsets, width)[array.offset : array.offset + len(array) + 1].tolist()
    start = content.address - whole.address if content else 0
    if not 0 <= start <= whole.size - ends[-1]:
        raise pa.ArrowInvalid("its bytes are compressed: write it without compression, or as Parquet")
    return [Segment(path, start + begin, end - begin) for begin, end in pairwise(ends)]


def _named(value: Any, path: str, number: int, place: str) -> Any:
    """Turn the ranges in a value of `_values` into {"bytes": range, "path"}."""
    if isinstance(value, Segment):
        return {"bytes": value, "path": shown_path(path, number, None, place)}
    if isinstance(value, list):
        return [_named(each, path, number, f"{place} {item}") for item, each in enumerate(value, start=1)]
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("bytes"), Segment):
        return {**value, "path": shown_path(path, number, value.get("path"), place)}
    return {key: _named(each, path, number, place) for key, each in value.items()}
