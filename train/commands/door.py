"""The doors to the commands, `reeltune` and the files of scripts/: Ctrl-C is one line while they open, too."""

import sys

from data.command import hear_ctrl_c


def main() -> None:
    """Run the console script."""
    hear_ctrl_c()
    from train.commands.app import main

    main()


def run_script(command: str) -> None:
    """Run the command of that name under the name of a script, with the process's own arguments."""
    hear_ctrl_c()
    from train.commands.app import COMMANDS, name_of, run

    (only,) = (each for each in COMMANDS if name_of(each) == command)
    run(sys.argv[1:], sys.argv[0], only)
