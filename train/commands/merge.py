"""reeltune merge: an adapter, or several, and their base as one model."""

from typing import Annotated, Literal

from typer import Argument, Option

from data.errors import UserError
from train.commands.options import BaseName, Dtype


def merge(
    words: Annotated[
        list[str],
        Argument(
            metavar="ADAPTER",
            help="folders or hub ids of adapters, several with a weight each; last OUT_DIR, a new or empty folder",
        ),
    ],
    base: BaseName = None,
    dtype: Annotated[Dtype | None, Option(help="number type to save in", show_default="that of the base")] = None,
    onto: Annotated[
        Literal["full", "quantized"],
        Option(help="quantized: onto the weights that nf4 or fp4 stood for in training"),
    ] = "full",
    combine: Annotated[
        Literal["linear", "ties", "dare_linear", "dare_ties", "magnitude_prune"] | None,
        Option(help="how weighted adapters become one change", show_default="linear"),
    ] = None,
    density: Annotated[
        float | None, Option(help="share of each change that is kept; for all methods but linear", show_default=False)
    ] = None,
    seed: Annotated[int | None, Option(help="of the draw of dare_linear and dare_ties", show_default="0")] = None,
    max_shard_size: Annotated[str, Option(help="largest file of weights, such as 500MB")] = "5GB",
    check_only: Annotated[
        bool, Option("--check-only", help="write nothing: check a merged model, given in place of the adapter")
    ] = False,
) -> None:
    """Merge an adapter into its base, or several with weights: a full model that transformers loads without PEFT.

    \b
        reeltune merge ADAPTER OUT_DIR
        reeltune merge ADAPTER=0.7 OTHER=0.3 OUT_DIR
        reeltune merge --check-only MERGED

    One tensor at a time is read, summed in float32, rounded and written, so that a model of any size needs little
    memory. The base is read unquantised, also where training quantised it. The result is compared, layer by layer,
    with the adapter's answers and with those at the end of training before OUT_DIR appears.
    """
    if check_only and len(words) > 1:
        raise UserError(f"--check-only writes nothing: leave {words[1]} out")
    if check_only and (base or dtype or onto != "full" or combine or density is not None or seed is not None):
        raise UserError("--check-only takes a merged model and no other option")
    from train.mixing.given import adapters_and_folder, settings_of_combination

    given, out_dir = adapters_and_folder(words) if not check_only else ([], None)
    is_mixture = any(each.weight is not None for each in given)
    settings = settings_of_combination(combine, density, seed, is_mixture)
    from train.merging.check import check_merged
    from train.merging.merge import MergeOptions, merge_adapter
    from train.mixing.mix import merge_mixture
    from train.model.load import quiet_libraries

    quiet_libraries()
    options = MergeOptions(base, dtype, onto, max_shard_size)
    if out_dir is None:
        check_merged(words[0])
    elif is_mixture:
        merge_mixture(given, out_dir, settings, options)
    else:
        merge_adapter(given[0].name, out_dir, options)
