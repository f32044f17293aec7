"""reeltune train: a recipe, in as many processes as the machine has GPUs."""

import os
import sys
from typing import Annotated

from typer import Option

from data.command import leave_at_ctrl_c, raise_at_ctrl_c
from data.progress.bars import SCREEN
from train.commands.options import Gpus, Hardware, Overrides, RecipeFile


def train(
    recipe: RecipeFile,
    overrides: Overrides = None,
    hardware: Hardware = None,
    gpus: Gpus = None,
    fresh: Annotated[bool, Option("--fresh", help="start over; an earlier run in the folder is moved aside")] = False,
) -> None:
    """Train what a recipe describes; the same command continues a run that was interrupted.

    \b
        reeltune train my_recipe.yaml training.max_steps=100
        reeltune train my_recipe.yaml --hardware accelerate_configs/zero3.yaml

    Ctrl-C, SIGTERM, SIGUSR1 and SIGHUP finish the step, save and leave with 130, 143, 138 or 129; a second Ctrl-C
    leaves without saving. They reach all processes, whichever got them.
    """
    from train.recipe.command_line import read_command_line

    arguments = [str(recipe), *(overrides or ()), *(["--fresh"] if fresh else ())]
    read_command_line(arguments)  # a mistake is said at once
    leave_at_ctrl_c()
    SCREEN.write(f"{recipe}: loading libraries")
    from train.ranks.hardware import find_hardware
    from train.ranks.launch import launch

    found = find_hardware(hardware, gpus)
    if found.num_everywhere > 1:
        sys.exit(launch(found, arguments))
    os.environ.update(found.environment)
    from train.sft import main

    raise_at_ctrl_c()
    main(arguments)
