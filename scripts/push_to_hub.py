"""Send an adapter or a merged model to the Hugging Face hub, with processor, recipe and a model card.

Local paths and tokens stay here: the recipe and the configs are sent with file names only. Checkpoints, logs
and optimizer states are not sent.
"""

import argparse
from pathlib import Path

from data.command import run_command
from train.results.hub import push_to_hub


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="an output folder of training, or a merged model")
    parser.add_argument("repo_id", help="where to, such as my-name/my-model")
    visibility = parser.add_mutually_exclusive_group()
    visibility.add_argument("--private", action="store_true", help="only you can see it (the default)")
    visibility.add_argument("--public", action="store_true", help="everybody can see it")
    parser.add_argument(
        "--base", metavar="HUB_ID", help="the base model's hub id, where training took it from a folder"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the files and the card, and send nothing")
    arguments = parser.parse_args()
    push_to_hub(
        arguments.folder,
        arguments.repo_id,
        private=not arguments.public,
        dry_run=arguments.dry_run,
        base=arguments.base,
    )


if __name__ == "__main__":
    run_command(main)
