"""Values of Parquet files, found again by column and row."""

import pyarrow as pa
import pyarrow.parquet as pq

from data.media.reference import Cell


def read_cell_value(file: pq.ParquetFile, leaf: str, row: int):
    """One value of one column; the pages of its row group before it are read and dropped."""
    for group in range(file.num_row_groups):
        num_rows = file.metadata.row_group(group).num_rows
        if row < num_rows:
            for number, batch in enumerate(file.iter_batches(1, [group], [leaf], use_threads=False)):
                if number == row:
                    return batch.column(0)[0].as_py()
        row -= num_rows
    raise OSError("the file has fewer rows; it was changed while it was read")


def read_cell(cell: Cell) -> bytes:
    """OSError where there are none."""
    try:
        with pq.ParquetFile(cell.file) as file:
            value = read_cell_value(file, cell.column, cell.row)
    except pa.ArrowException as error:
        raise OSError(f"{cell.file}: {' '.join(str(error).split())}") from error
    if cell.item is not None:
        value = value[cell.item]
    if isinstance(value, dict):
        (value,) = value.values()
    if not value:
        raise OSError(f"{cell.file} has no bytes in column {cell.column}, row {cell.row + 1}")
    return value
