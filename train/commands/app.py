"""The command line `reeltune`, and the doors of `scripts/` to its commands."""

import os
import sys
from collections.abc import Callable

import typer
from typer.main import get_command

from data.command import run_command
from data.errors import UserError
from data.progress.log import start_logging
from train.commands.chat import chat
from train.commands.check import check
from train.commands.env import env
from train.commands.estimate import estimate
from train.commands.evaluate import evaluate
from train.commands.generate import generate
from train.commands.in_order import InOrder
from train.commands.merge import merge
from train.commands.new_model import new_model
from train.commands.preview import preview
from train.commands.push import push
from train.commands.report import report
from train.commands.schema import schema
from train.commands.serve import serve
from train.commands.train_recipe import train

# In the order of --help, each with a line that 80 columns do not cut.
COMMANDS: dict[Callable[..., None], str] = {
    train: "Train what a recipe describes, on all GPUs of this machine.",
    check: "Read all records of a recipe, decode all files: is all well?",
    preview: "Show what the model will see, and which words are trained.",
    estimate: "Count the memory and time that a recipe will take.",
    generate: "Ask a model about clips and pictures.",
    chat: "Talk to a model about clips and pictures, word by word.",
    serve: "Answer at an endpoint with OpenAI's interface.",
    evaluate: "Answer the questions of a data file, and score the answers.",
    report: "Write what came of a run as one page.",
    merge: "Merge an adapter into its base.",
    push: "Send an adapter or a merged model to the hub.",
    new_model: "Make a Video-LLaVA, random or of a tower and a decoder.",
    env: "Print what a report of a fault needs: versions, hardware.",
    schema: "Print the JSON schema of recipes, for editors.",
}
NAME = "reeltune"
COMPLETE = f"_{NAME.upper()}_COMPLETE"  # set by the shell whose completion asks


def build(only: Callable[..., None] | None = None) -> typer.Typer:
    """Return the application, or one command of it. Without rich's markup, whose import would double the time that
    --help takes."""
    app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=only is None)
    for command, line in COMMANDS.items():
        if only in (None, command):
            app.command(cls=InOrder if command in (chat, generate) else None, short_help=line)(command)
    if only is None:
        app.callback()(reeltune)
    return app


def reeltune() -> None:
    """Fine-tune Video-LLaVA on your clips: one clip, many questions, one pass.

    `reeltune COMMAND --help` says more about a command.
    """


def name_of(command: Callable[..., None]) -> str:
    """Return the name by which a command is called."""
    return command.__name__.replace("_", "-")


def run(arguments: list[str], name: str = NAME, only: Callable[..., None] | None = None) -> None:
    """Run `reeltune ARGUMENTS`, or one command of it under the name of a script.

    Exit status 2 with one line for what is wrong in the command line, as for every error of users.
    """
    names = {name_of(each): each for each in COMMANDS}
    if only is None and arguments and arguments[0] in names:  # without reading the options of all the others
        return run(arguments[1:], f"{NAME} {arguments[0]}", names[arguments[0]])
    command = get_command(build(only))

    def act() -> None:
        start_logging(answers_on_stdout=True)
        try:
            with command.make_context(name, list(arguments), obj=arguments) as context:
                command.invoke(context)
        except typer.Exit as end:
            if end.exit_code:
                sys.exit(end.exit_code)
        except typer.TyperException as problem:
            raise UserError(f"{problem.format_message().rstrip('.')}; see --help") from problem

    run_command(act)


def main() -> None:
    """Run what the process's own arguments say."""
    if COMPLETE in os.environ:
        build()(prog_name=NAME)
    run(sys.argv[1:] or ["--help"])
