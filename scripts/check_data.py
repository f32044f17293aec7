"""The command `reeltune check` for those who have a checkout and no console script."""

from train.commands.door import run_script

if __name__ == "__main__":
    run_script("check")
