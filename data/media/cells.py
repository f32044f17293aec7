"""Values of Parquet files, found again by column and number of the record."""

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import one_line
from data.media.reference import Cell


def read_cell_value(file: pq.ParquetFile, leaf: str, record: int) -> Any:
    """Read one value of one column; what its part of the file has before it is read and dropped."""
    for group in range(file.num_row_groups):
        num_records = file.metadata.row_group(group).num_rows
        if record < num_records:
            for number, batch in enumerate(file.iter_batches(1, [group], [leaf], use_threads=False)):
                if number == record:
                    return batch.column(0)[0].as_py()
        record -= num_records
    raise OSError("the file has fewer records; it was changed while it was read")


def read_cell(cell: Cell) -> bytes:
    """Read the bytes that a cell refers to. Raises OSError where there are none."""
    try:
        with pq.ParquetFile(cell.file) as file:
            value = read_cell_value(file, cell.column, cell.record)
    except pa.ArrowException as error:
        raise OSError(f"{cell.file}: {one_line(error)}") from error
    if cell.item is not None:
        value = value[cell.item]
    if isinstance(value, dict):
        (value,) = value.values()
    if not value:
        raise OSError(f"{cell.file} has no bytes in column {cell.column}, record {cell.record + 1}")
    return value
