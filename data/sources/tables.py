"""Parquet and Arrow files of records; media are paths, bytes, {"bytes", "path"}, or lists of these.

Bytes are not read with the records. In an Arrow file they are a range of the file; in a Parquet file, whose pages are
compressed, they are found again by column and number of the record.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from itertools import repeat
from pathlib import PurePath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import UserError, one_line
from data.media.reference import Cell, Segment
from data.sources.arrow_files import MAX_PER_BYTE, arrow_records
from data.sources.forms import MEDIA, NO_COLUMNS, is_read, plain_key
from data.sources.guard import about_record, described
from data.sources.json_records import Record
from data.sources.record_batches import RECORDS_AT_ONCE, each_record

SUFFIXES = (".parquet", ".arrow")
MAX_BATCH_BYTES = 2**30  # of a batch whose values are all the longest that its part of the file can have


class Chosen:
    """The columns of a table that are read, and those whose bytes are those of media. unread: the names of the others.

    columns: see `Reading`.
    """

    def __init__(self, columns: Mapping[str, str]):
        self._columns, self._ours = columns, {theirs: ours for ours, theirs in columns.items()}
        self.unread: tuple[str, ...] = ()

    def select(self, names: Iterable[str]) -> list[str]:
        names = dict.fromkeys(names)
        self.unread = tuple(name for name in names if not is_read(name, self._columns))
        return [name for name in names if is_read(name, self._columns)]

    def has_media(self, name: str) -> bool:
        return self._ours.get(name, plain_key(name)) in MEDIA


def read_table(
    path: str, on_problem: Callable[[UserError], None], columns: Mapping[str, str] = NO_COLUMNS
) -> Iterator[Record]:
    """Read records in the file's order, of the columns that a record may have. columns: see `Reading`."""
    try:
        with open(path, "rb"):  # whose errors are clearer
            pass
        chosen = Chosen(columns)
        is_parquet = path.endswith(".parquet")
        records = (
            _parquet_records(path, chosen, on_problem)
            if is_parquet
            else enumerate(arrow_records(path, chosen.select), start=1)
        )
        for number, record in records:
            name = f"{path} record {number}"
            try:
                with about_record(name):
                    content = _content(record, path, number)
            except UserError as problem:
                on_problem(problem)
            else:
                yield Record(content, name, unread=chosen.unread)
    except UserError as problem:
        on_problem(problem)
    except OSError as error:
        if isinstance(error, pa.ArrowException) or error.errno is None:  # pyarrow says so of files that are cut
            return on_problem(_damaged(path, error))
        on_problem(UserError(f"{path}: cannot read the data file: {error.strerror or error}"))
    except Exception as error:
        on_problem(_damaged(path, error))


def _damaged(path: str, error: Exception, what: str = "") -> UserError:
    reason = one_line(error) if isinstance(error, pa.ArrowException) else described(error)
    return UserError(f"{path}: {what}is damaged or not a {path.rpartition('.')[2]} file ({reason}); copy it again")


def _content(record: Any, path: str, number: int) -> dict:
    """Return a record without the columns that it lacks; raise the error that it is."""
    if isinstance(record, Exception):
        raise record
    return {key: _named(value, path, number, key) for key, value in record.items() if value is not None}


def shown_path(file: str, number: int, name: str | None, place: str) -> str:
    """Name bytes of a table's record, counted from 1, for messages; the original's name ends it where there is one."""
    return os.path.join(file, f"record {number}", PurePath(name or place).name)


def _parquet_records(path: str, chosen: Chosen, on_problem: Callable[[UserError], None]) -> Iterator[tuple[int, Any]]:
    """Yield the number of each record and its columns, or the error that keeps it from being read."""
    with pq.ParquetFile(path) as file:
        if file.metadata.num_rows > MAX_PER_BYTE * os.path.getsize(path):
            raise pa.ArrowInvalid(f"it claims {file.metadata.num_rows:,} records in {os.path.getsize(path):,} bytes")
        wanted = chosen.select(_column(file.schema.column(place)) for place in range(len(file.schema.names)))
        has_media = set(filter(chosen.has_media, wanted))
        first = 0
        for group in range(file.num_row_groups):
            number = first
            first += file.metadata.row_group(group).num_rows
            try:
                for record in _group_records(file, path, group, number, set(wanted), has_media):
                    number += 1
                    yield number, record
            except Exception as error:
                on_problem(_damaged(path, error, f"its part with records {number + 1} to {first} "))


def _group_records(
    file: pq.ParquetFile, path: str, group: int, number: int, wanted: Set[str], has_media: Set[str]
) -> Iterator[Any]:
    leaves = [file.schema.column(place) for place in range(len(file.schema.names))]
    content = {leaf.path: _column(leaf) for leaf in leaves if _column(leaf) in has_media and _is_bytes(leaf)}
    light = [leaf.path for leaf in leaves if _column(leaf) in wanted and leaf.path not in content]
    has_light = {leaf.partition(".")[0] for leaf in light}
    present = {leaf: column for leaf, column in content.items() if _num_null(file, group, leaf)[1]}
    shapes = {leaf: _shapes(file, group, leaf) for leaf, column in present.items() if column not in has_light}
    for batch in file.iter_batches(_num_at_once(file, group, light), [group], light, use_threads=False):
        for record in each_record(batch, pa.RecordBatch.to_pylist):
            found = {leaf: next(shape) for leaf, shape in shapes.items()}
            try:
                for leaf, column in () if isinstance(record, Exception) else present.items():
                    value = found[leaf] if leaf in found else record[column]
                    record[column] = _with_cells(path, leaf, column, number, value)
            except Exception as error:
                record = error
            yield record
            number += 1


def _num_at_once(file: pq.ParquetFile, group: int, light: list[str]) -> int:
    """Return how many records may be read at once: a value that is stored once may stand in all of them."""
    longest = sum(max(0, _chunk(file, group, leaf).total_uncompressed_size) for leaf in light)
    return max(1, min(RECORDS_AT_ONCE, MAX_BATCH_BYTES // max(1, longest)))


def _chunk(file: pq.ParquetFile, group: int, leaf: str) -> pq.ColumnChunkMetaData:
    """Return what a part of the file says of one of its columns.

    Damaged figures there abort the process that asks for them (pyarrow 26), and not one that reads a value, for which
    they are looked at, too: so one is read first. Raises pyarrow's errors.
    """
    (place,) = (place for place in range(len(file.schema.names)) if file.schema.column(place).path == leaf)
    next(file.reader.iter_batches(1, row_groups=[group], column_indices=[place], use_threads=False), None)
    return file.metadata.row_group(group).column(place)


def _column(leaf: pq.ColumnSchema) -> str:
    return leaf.path.partition(".")[0]


def _is_bytes(leaf: pq.ColumnSchema) -> bool:
    return leaf.physical_type == "BYTE_ARRAY" and leaf.logical_type.type == "NONE"


def _num_null(file: pq.ParquetFile, group: int, leaf: str) -> tuple[int, int]:
    """Count the values of a part of the file that are null and those that are not; (1, 1) where it does not say."""
    chunk = _chunk(file, group, leaf)
    if chunk.statistics is None or not chunk.statistics.has_null_count:
        return 1, 1
    return chunk.statistics.null_count, chunk.num_values - chunk.statistics.null_count


def _shapes(file: pq.ParquetFile, group: int, leaf: str) -> Iterator:
    """Tell record by record what a column has that holds nothing but bytes: {}, a list of them, or None without any."""
    if "." not in leaf and not _num_null(file, group, leaf)[0]:
        return repeat({})
    return (_shape(batch.column(0)[0]) for batch in file.iter_batches(1, [group], [leaf], use_threads=False))


def _shape(value: pa.Scalar) -> dict | list | None:
    if not value.is_valid:
        return None
    return [_shape(each) for each in value.values] if isinstance(value, pa.ListScalar) else {}


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
