"""The command `reeltune estimate` for those who have a checkout and no console script."""

import sys

from train.commands.app import run
from train.commands.estimate import estimate

if __name__ == "__main__":
    run(sys.argv[1:], sys.argv[0], estimate)
