"""reeltune merge: an adapter and its base as one model."""

from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from data.errors import UserError
from train.commands.options import Base, Dtype


def merge(
    adapter: Annotated[str, Argument(help="a folder with adapter_config.json, or a hub id")],
    out_dir: Annotated[Path | None, Argument(help="the folder to write; must be new or empty")] = None,
    base: Base = None,
    dtype: Annotated[Dtype | None, Option(help="number type to save in", show_default="that of the base")] = None,
    onto: Annotated[
        Literal["full", "quantized"],
        Option(help="quantized: onto the weights that nf4 or fp4 stood for in training"),
    ] = "full",
    max_shard_size: Annotated[str, Option(help="largest file of weights, such as 500MB")] = "5GB",
    check_only: Annotated[
        bool, Option("--check-only", help="write nothing: check a merged model, given in place of the adapter")
    ] = False,
) -> None:
    """Merge an adapter into its base: a full model that transformers loads without PEFT.

    \b
        reeltune merge ADAPTER OUT_DIR
        reeltune merge --check-only MERGED

    One tensor at a time is read, summed in float32, rounded and written, so that a model of any size needs little
    memory. The base is read unquantised, also where training quantised it. The result is compared, layer by layer,
    with the adapter's answers and with those at the end of training before OUT_DIR appears.
    """
    if check_only and out_dir is not None:
        raise UserError(f"--check-only writes nothing: leave {out_dir} out")
    if check_only and (base or dtype or onto != "full"):
        raise UserError("--check-only takes a merged model and no other option")
    if not check_only and out_dir is None:
        raise UserError("give OUT_DIR, the folder to write; see --help")
    from train.merging.check import check_merged
    from train.merging.merge import merge_adapter
    from train.model.load import quiet_libraries

    quiet_libraries()
    if out_dir is None:
        check_merged(adapter)
    else:
        merge_adapter(adapter, out_dir, base, dtype, onto, max_shard_size)
