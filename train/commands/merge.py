"""reeltune merge: an adapter and its base as one model."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from train.commands.options import Base, Dtype


def merge(
    adapter: Annotated[str, Argument(help="a folder with adapter_config.json, or a hub id")],
    out_dir: Annotated[Path, Argument(help="the folder to write; must be new or empty")],
    base: Base = None,
    dtype: Annotated[Dtype | None, Option(help="number type to save in", show_default="that of the base")] = None,
) -> None:
    """Merge an adapter into its base: a full model that transformers loads without PEFT.

    The base is read unquantised, also where training quantised it; the sum is made in float32 and rounded once. The
    result is compared with the adapter's answers and loaded again before OUT_DIR appears.
    """
    from train.model.load import quiet_libraries
    from train.results.merge import merge_adapter

    quiet_libraries()
    merge_adapter(adapter, out_dir, base, dtype)
