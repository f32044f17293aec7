"""The command `reeltune new-model` for those who have a checkout and no console script."""

import sys

from train.commands.app import run
from train.commands.new_model import new_model

if __name__ == "__main__":
    run(sys.argv[1:], sys.argv[0], new_model)
