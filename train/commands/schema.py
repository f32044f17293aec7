"""reeltune schema: by which editors complete and check recipes."""

from pathlib import Path
from typing import Annotated

from typer import Option

from data.files import check_outputs, write_output


def schema(
    out: Annotated[Path | None, Option(help="the file to write", show_default="the schema is printed")] = None,
) -> None:
    """Print the JSON schema of recipes, by which editors complete and check them.

    Its `training` section is that of the installed transformers.
    """
    from train.jobs.schema import schema_text

    if out is None:
        print(schema_text(), end="")
    else:
        check_outputs({"--out": out})
        write_output("--out", out, schema_text())
        print(f"wrote {out}")
