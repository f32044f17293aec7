"""Options and arguments that several commands have, with one meaning."""

import math
from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

from data.errors import UserError

MOST = 1_000_000.0  # of seconds, MiB or GiB: what is no number, or without end, is no bound

RecipeFile = Annotated[Path, Argument(help="a YAML file, see recipes/", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    Argument(
        help="change the recipe for this time, such as training.max_steps=10", metavar="section.key=value",
        show_default=False,
    ),
]  # fmt: skip

Dtype = Literal["float32", "bfloat16", "float16"]
ModelArgument = Annotated[str, Argument(help="a base model, an adapter or a merged model: a folder or a hub id")]
BaseName = Annotated[str | None, Option(help="folder or hub id of an adapter's base, instead of the one it names")]
AnsweringDtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    Option(help="number type of weights that are not quantised; auto: as in training, or as saved"),
]
AnyBase = Annotated[
    bool, Option("--any-base", help="answer although the base is not the one that the adapter was trained on")
]
Quantization = Annotated[
    Literal["nf4", "fp4", "int8"] | None, Option(help="of the decoder", show_default="none", metavar="nf4|fp4|int8")
]
NumFrames = Annotated[int | None, Option(min=1, max=1024, help="frames of a clip", show_default="as in training")]
MaxNewTokens = Annotated[int, Option(min=1, help="longest answer, in tokens")]

Temperature = Annotated[float, Option(help="0: the likeliest word; more: words are drawn, and more freely")]
TopP = Annotated[float, Option(help="draw from the likeliest words that have this probability together")]
Seed = Annotated[int | None, Option(help="what random numbers begin with", show_default="others each time")]
PrefixMemory = Annotated[
    float, Option(min=0, max=MOST, metavar="GIB", help="keys and values of earlier questions that are kept")
]
MaxContext = Annotated[
    int | None, Option(min=1, help="longest conversation, in tokens", show_default="what the model was made for")
]
FixedSeed = Annotated[int, Option(help="what random numbers begin with: the same draws the same answers")]
Hardware = Annotated[
    Path | None, Option(metavar="FILE", help="of accelerate_configs/", show_default="the machine as it is")
]
Gpus = Annotated[int | None, Option(min=0, help="processes, one a GPU; 0: on the CPU", show_default="all")]


def temperature_of(temperature: float, top_p: float) -> float | None:
    """Return the temperature to draw at, None for greedy answers. Raises UserError for what cannot be."""
    if not 0 <= temperature < math.inf or not 0 < top_p <= 1:
        raise UserError(f"--temperature {temperature:g} --top-p {top_p:g}: give one of 0 or more, and one from 0 to 1")
    if top_p < 1 and not temperature:
        raise UserError("--top-p: answers are greedy; give a --temperature above 0, too, or leave it out")
    return temperature or None
