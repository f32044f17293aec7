"""Go from nothing to a trained, merged and answering model, on a CPU, in a few minutes; `make demo` runs this.

    python scripts/run_demo.py [section.key=value ...]

Makes the demo's data and base (scripts/make_demo.py), trains recipes/demo.yaml on it by the usual command,
merges the adapter, asks all three models about clips that none has seen, and writes outputs/demo/results.json.
Overrides go to the recipe, such as model.quantization=nf4.
"""

import argparse

from data.command import run_command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="change the recipe for this run")
    overrides = parser.parse_args().overrides
    from scripts.demo.walkthrough import run_demo

    run_demo(overrides)


if __name__ == "__main__":
    run_command(main)
