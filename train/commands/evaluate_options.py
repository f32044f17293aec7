"""The options of `reeltune evaluate`."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from train.commands.options import MOST
from train.scoring.names import BENCHMARKS
from train.scoring.names import Metric as MetricName

Recipe = Annotated[
    Path | None, Argument(help="a YAML file, whose data.eval is asked", metavar="RECIPE", show_default=False)
]
Data = Annotated[
    list[str] | None,
    Option(help="records in a file, several, or a data set (docs/data.md); again for more", show_default=False),
]
Benchmark = Annotated[
    str | None,
    Option(
        help="a published benchmark, whose folder --data names: " + ", ".join(BENCHMARKS),
        metavar="NAME",
        show_default=False,
    ),
]
Subset = Annotated[
    list[str] | None,
    Option(help="a part of the benchmark alone, such as short or yes_no; again for more", show_default="all"),
]
Against = Annotated[
    str | None,
    Option(
        help="an earlier --out, or another model, which is asked the same: compared question by question",
        metavar="FILE|MODEL",
        show_default=False,
    ),
]
Judge = Annotated[
    str | None,
    Option(
        help="have a language model judge the answers: an address that ends in /v1; the key is taken from "
        "REELTUNE_JUDGE_KEY",
        metavar="URL",
        show_default=False,
    ),
]
JudgeModel = Annotated[str | None, Option(help="its name there", metavar="NAME", show_default=False)]
JudgePrice = Annotated[
    float | None, Option(min=0, help="of a million of its tokens, to tell the cost before", show_default=False)
]
Out = Annotated[
    Path | None, Option(help="one JSON object a question is written here, as it is answered", show_default=False)
]
MediaRoot = Annotated[
    list[str] | None,
    Option(help="folder of the clips and pictures, or one for each --data", show_default="that of the data file"),
]
MediaHost = Annotated[
    list[str] | None,
    Option(help="a host that records may name media on, again for more", show_default="all with public addresses"),
]
Column = Annotated[
    list[str] | None,
    Option(help="what the data call a key of records: query=question; again for more", show_default="as it is"),
]
Tag = Annotated[
    list[str] | None,
    Option(help="what their turns are made of: role_tag=speaker; again for more", show_default="as it is"),
]
Metric = Annotated[
    MetricName | None, Option(help="how answers are scored", show_default="what the record says", metavar="NAME")
]
Json = Annotated[Path | None, Option(help="accuracy and counts are written here")]
Limit = Annotated[int | None, Option(min=1, help="answer the first questions of each --data", show_default="all")]
BatchSize = Annotated[int, Option(min=1, help="memory for this many questions, each by itself")]
DecodeSeconds = Annotated[float, Option(min=0.1, max=MOST, help="longest that a clip may take, in seconds")]
MaxNewTokens = Annotated[
    int | None, Option(min=1, help="longest answer, in tokens", show_default="128, or as the recipe says")
]
