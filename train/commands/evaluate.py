"""reeltune evaluate: the questions of a data file, answered and scored."""

from pathlib import Path
from typing import Annotated

from typer import Option

from train.commands.options import AnsweringDtype, AnyBase, Asked, Base, MaxNewTokens, Quantization


def evaluate(
    model: Asked,
    data: Annotated[str, Option(help="records in a file, several, or a data set (docs/data.md)", show_default=False)],
    out: Annotated[
        Path, Option(help="one JSON object a question is written here, as it is answered", show_default=False)
    ],
    media_root: Annotated[
        str | None, Option(help="folder of the clips and pictures", show_default="that of the data file")
    ] = None,
    media_host: Annotated[
        list[str] | None,
        Option(help="a host that records may name media on, again for more", show_default="all with public addresses"),
    ] = None,
    column: Annotated[
        list[str] | None,
        Option(help="what the data call a key of records: query=question; again for more", show_default="as it is"),
    ] = None,
    tag: Annotated[
        list[str] | None,
        Option(help="what their turns are made of: role_tag=speaker; again for more", show_default="as it is"),
    ] = None,
    json: Annotated[Path | None, Option(help="accuracy and counts are written here")] = None,
    limit: Annotated[int | None, Option(min=1, help="answer the first questions only", show_default="all")] = None,
    batch_size: Annotated[int, Option(min=1, help="questions answered at once")] = 8,
    decode_seconds: Annotated[float, Option(help="longest that a clip may take, in seconds")] = 60.0,
    base: Base = None,
    dtype: AnsweringDtype = "auto",
    any_base: AnyBase = False,
    quantization: Quantization = None,
    max_new_tokens: MaxNewTokens = 128,
) -> None:
    """Answer every question of a data file and score the answers.

    A question is each of the assistant's turns, asked with the true history. An answer is correct when it says one of
    the record's "accept" texts (docs/scoring.md has the rule), or without these equals the expected answer after the
    usual VQA normalisation. Questions about media that cannot be decoded are left out, counted and named. Answers are
    kept as they come: where a run has ended before its time, the same command goes on.
    """
    from train.jobs.evaluate import Settings, evaluate_file

    hosts = tuple(media_host) if media_host else None
    settings = Settings(
        base, dtype, any_base, quantization, max_new_tokens, limit, batch_size, decode_seconds, media_hosts=hosts,
        columns=tuple(column or ()), tags=tuple(tag or ()),
    )  # fmt: skip
    evaluate_file(model, data, media_root, out, json, settings)
