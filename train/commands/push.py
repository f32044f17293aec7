"""reeltune push: a result, sent to the hub."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from data.errors import UserError


def push(
    folder: Annotated[Path, Argument(help="an output folder of training, or a merged model")],
    repo_id: Annotated[str, Argument(help="where to, such as my-name/my-model")],
    private: Annotated[bool, Option("--private", help="only you can see it (the default)")] = False,
    public: Annotated[bool, Option("--public", help="everybody can see it")] = False,
    base: Annotated[
        str | None, Option(metavar="HUB_ID", help="the base model's hub id, where training took it from a folder")
    ] = None,
    tag: Annotated[
        str | None, Option(metavar="NAME", help="of this state of the repository", show_default="step and digest")
    ] = None,
    revision: Annotated[
        str | None, Option(metavar="BRANCH", help="send to this branch, made where it is missing", show_default="main")
    ] = None,
    dry_run: Annotated[bool, Option("--dry-run", help="print the files and the card, and send nothing")] = False,
) -> None:
    """Send an adapter or a merged model to the Hugging Face hub, with processor, recipe and a model card.

    Local paths and tokens stay here: the recipe and the configs are sent with file names only. Checkpoints, logs,
    answers and optimizer states are not sent. Where it ends before its time, the same command goes on.
    """
    if private and public:
        raise UserError("--private and --public: give one of them")
    from train.results.hub import push_to_hub

    push_to_hub(folder, repo_id, private=not public, dry_run=dry_run, base=base, revision=revision, tag=tag)
