"""Parquet and Arrow files: a row is a record; media are paths, bytes, {"bytes", "path"}, or lists of these.

Bytes are not read with the rows. In an Arrow file they are a range of the file; in a Parquet file, whose pages are
compressed, they are found again by column and row.
"""

import os
from collections.abc import Callable, Iterator
from itertools import pairwise, repeat
from pathlib import PurePath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import UserError
from data.media.reference import KINDS, Cell, Segment
from data.sources.json_records import Row

MEDIA = (*KINDS, *(kind + "s" for kind in KINDS))
COLUMNS = ("id", "accept", "start", "end", "conversations", "messages", *MEDIA)
SUFFIXES = (".parquet", ".arrow")
ROWS_AT_ONCE = 256


def read_table(path: str, on_problem: Callable[[UserError], None]) -> Iterator[Row]:
    """Rows in the file's order, of the columns that a record may have."""
    try:
        with open(path, "rb"):  # whose errors are clearer
            pass
        records = _parquet_records(path) if path.endswith(".parquet") else _arrow_records(path)
        for number, record in enumerate(records, start=1):
            yield Row({key: value for key, value in record.items() if value is not None}, f"{path} row {number}")
    except pa.ArrowException as error:
        reason = " ".join(str(error).split())
        on_problem(UserError(f"{path}: is damaged or not a {path.rpartition('.')[2]} file ({reason}); copy it again"))
    except OSError as error:
        on_problem(UserError(f"{path}: cannot read the data file: {error.strerror or error}"))


def shown_path(file: str, row: int, name: str | None, place: str) -> str:
    """What messages call bytes of a table: row 1 is the first; it ends as the original's name, where there is one."""
    return os.path.join(file, f"row {row}", PurePath(name or place).name)


def _parquet_records(path: str) -> Iterator[dict]:
    with pq.ParquetFile(path) as file:
        leaves = [file.schema.column(number) for number in range(len(file.schema.names))]
        content = {leaf.path: _column(leaf) for leaf in leaves if _column(leaf) in MEDIA and _is_bytes(leaf)}
        light = [leaf.path for leaf in leaves if _column(leaf) in COLUMNS and leaf.path not in content]
        has_light = {leaf.partition(".")[0] for leaf in light}
        row = 0
        for group in range(file.num_row_groups):
            present = {leaf: column for leaf, column in content.items() if _num_null(file, group, leaf)[1]}
            shapes = {leaf: _shapes(file, group, leaf) for leaf, column in present.items() if column not in has_light}
            for batch in file.iter_batches(ROWS_AT_ONCE, [group], light, use_threads=False):
                for record in batch.to_pylist():
                    for leaf, column in present.items():
                        value = next(shapes[leaf]) if leaf in shapes else record[column]
                        record[column] = _with_cells(path, leaf, column, row, value)
                    yield record
                    row += 1


def _column(leaf) -> str:
    return leaf.path.partition(".")[0]


def _is_bytes(leaf) -> bool:
    return leaf.physical_type == "BYTE_ARRAY" and leaf.logical_type.type == "NONE"


def _num_null(file: pq.ParquetFile, group: int, leaf: str) -> tuple[int, int]:
    """How many values of a row group are null and how many are not; where the file does not say, a mixture."""
    row_group = file.metadata.row_group(group)
    (chunk,) = (chunk for chunk in map(row_group.column, range(row_group.num_columns)) if chunk.path_in_schema == leaf)
    if chunk.statistics is None or not chunk.statistics.has_null_count:
        return 1, 1
    return chunk.statistics.null_count, chunk.num_values - chunk.statistics.null_count


def _shapes(file: pq.ParquetFile, group: int, leaf: str) -> Iterator:
    """Of a column that has nothing but bytes, row by row: {}, a list of them, or None where there are none."""
    if "." not in leaf and not _num_null(file, group, leaf)[0]:
        return repeat({})
    return (_shape(batch.column(0)[0].as_py()) for batch in file.iter_batches(1, [group], [leaf], use_threads=False))


def _shape(value):
    if isinstance(value, list):
        return [_shape(each) for each in value]
    return None if value is None else {}


def _with_cells(path: str, leaf: str, column: str, row: int, value):
    """The value of a media column, read without its bytes, with references to these."""
    if isinstance(value, list):
        return [
            _with_cell(Cell(path, leaf, row, item), each, f"{column} {item + 1}") for item, each in enumerate(value)
        ]
    return _with_cell(Cell(path, leaf, row), value, column)


def _with_cell(cell: Cell, value: dict | None, place: str) -> dict | None:
    if value is None:
        return None
    return {"bytes": cell, "path": shown_path(cell.file, cell.row + 1, value.get("path"), place)}


def _arrow_records(path: str) -> Iterator[dict]:
    with pa.memory_map(path) as file:
        whole = file.read_buffer()
        try:
            reader = pa.ipc.open_file(whole)
            batches = map(reader.get_batch, range(reader.num_record_batches))
        except pa.ArrowInvalid:
            batches = pa.ipc.open_stream(whole)  # as `datasets` writes them
        row = 0
        for batch in batches:
            names = [name for name in batch.schema.names if name in COLUMNS]
            columns = [_values(batch[name], path, whole) for name in names]
            for values in zip(*columns, strict=True):
                row += 1
                yield {name: _named(value, path, row, name) for name, value in zip(names, values, strict=True)}


def _values(array: pa.Array, path: str, whole: pa.Buffer) -> list:
    """to_pylist(), but ranges of the file `whole` instead of bytes."""
    if isinstance(array, pa.BinaryArray | pa.LargeBinaryArray):
        values = _segments(array, path, whole)
    elif isinstance(array, pa.StructArray):
        names = [field.name for field in array.type]
        columns = [_values(array.field(name), path, whole) for name in names]
        values = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
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


def _named(value, path: str, row: int, place: str):
    """A value of `_values` whose ranges became {"bytes": range, "path"}."""
    if isinstance(value, Segment):
        return {"bytes": value, "path": shown_path(path, row, None, place)}
    if isinstance(value, list):
        return [_named(each, path, row, f"{place} {number}") for number, each in enumerate(value, start=1)]
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("bytes"), Segment):
        return {**value, "path": shown_path(path, row, value.get("path"), place)}
    return {key: _named(each, path, row, place) for key, each in value.items()}
