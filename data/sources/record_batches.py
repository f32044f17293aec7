"""Arrow's record batches -> Python's values, record by record, each within a bound of memory."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.sources.guard import MAX_RECORD, TooLargeRecord

RECORDS_AT_ONCE = 256  # few enough to be light, many enough for pyarrow not to be slowed down by calls
PYTHON_BYTES = 64  # of a small object


def each_record(batch: pa.RecordBatch, to_values: Callable[[pa.RecordBatch], list]) -> Iterator[Any]:
    """Yield what `to_values` makes of each record of a batch, or the error that keeps it from being made."""
    try:
        if sum(map(weight, batch.columns)) <= MAX_RECORD:
            yield from to_values(batch)
            return
    except Exception:  # which of them it is, shows below
        pass
    for number in range(batch.num_rows):
        try:
            one = batch.slice(number, 1)
            if sum(map(weight, one.columns)) > MAX_RECORD:
                raise TooLargeRecord
            (value,) = to_values(one)
        except Exception as error:
            value = error
        yield value


def weight(array: pa.Array) -> int:
    """Estimate the bytes that Python's values of an array take, without making them.

    Lists of nothing, and dictionaries, say much in few bytes. Raises TypeError for types that no record needs.
    """
    if isinstance(array, pa.ExtensionArray):
        return weight(array.storage)
    own = PYTHON_BYTES * len(array)
    if isinstance(array, pa.DictionaryArray):
        if is_text(array.dictionary.type):
            return own + _sum(_call("take", _call("binary_length", array.dictionary), array.indices))
        if array.dictionary.type.num_fields == 0:
            return own
    elif is_text(array.type):
        return own + _sum(_call("binary_length", array))
    elif pa.types.is_string_view(array.type) or pa.types.is_binary_view(array.type):  # as polars writes
        return own + _length_of_views(array)
    elif isinstance(array, pa.MapArray):
        return own + weight(array.keys) + weight(array.items)
    elif isinstance(array, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        return own + weight(array.flatten())
    elif isinstance(array, pa.StructArray):
        return 3 * own + sum(map(weight, array.flatten()))
    elif pa.types.is_primitive(array.type) or pa.types.is_null(array.type) or pa.types.is_decimal(array.type):
        return own
    raise TypeError(f"a column of type {array.type}, which no record has")


def _length_of_views(array: pa.Array) -> int:
    """Sum the lengths of texts, with which their views of 16 bytes begin."""
    views = np.frombuffer(array.buffers()[1] or b"", np.int32).reshape(-1, 4)
    return int(views[array.offset : array.offset + len(array), 0].clip(0).sum(dtype=np.int64))


def is_text(kind: pa.DataType) -> bool:
    """Tell texts and bytes, whose lengths are known."""
    types = pa.types
    return types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind) or types.is_large_binary(kind)


def _sum(numbers: pa.Array) -> int:
    return _call("sum", numbers).as_py() or 0


def _call(name: str, *arrays: pa.Array) -> Any:
    """Do what pyarrow.compute's function of that name does; they are made when it is imported."""
    return pc.call_function(name, list(arrays))
