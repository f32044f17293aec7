"""Every pair of quantisation, adapter and way to train works or is refused in one line, as the table says."""

import re
from itertools import combinations

import pytest
import yaml
from transformers import VideoLlavaConfig

from scripts.write_combinations import (
    ADAPTERS,
    BEGIN,
    END,
    PAGE,
    WAYS,
    WORKS,
    Combination,
    all_combinations,
    attempt,
    covering_combinations,
    table,
    write_run,
)
from train.model.build import build_model


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """The script's run, with two of the decoder's four layers, an ordinary one and the last, and an oblong matrix of
    each adapted: graphs are made of every layer, and anew for every adapted matrix."""
    path = write_run(tmp_path_factory.mktemp("combinations"))
    settings = yaml.safe_load(path.read_text())
    settings["lora"]["target"] = r".*language_model.*\.down_proj"
    path.write_text(yaml.safe_dump(settings))
    base = path.parent / "base"
    config = VideoLlavaConfig.from_pretrained(base)
    config.text_config.num_hidden_layers = 2
    build_model(config).save_pretrained(base)
    return path


def said_of(combination: Combination) -> str:
    """Return what the page says of a combination."""
    lines = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].splitlines()
    columns = [name.strip() for name in lines[1].split("|")]
    line = next(line for line in lines if line.startswith(f"| {combination.adapter} |"))
    cell = line.split("|")[columns.index(combination.way)].strip()
    number = re.search(rf"\b{combination.quantization} \((\d+)\)", cell)
    if number is None:
        assert cell.startswith(WORKS)
        return WORKS
    return next(line for line in lines if line.startswith(f"{number[1]}. ")).partition(". ")[2].strip("`")


# Graphs take twenty seconds: the script compiles all, the suite the adapter whose layers differ most.
COMPILED = ("DoRA",)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_what_the_table_says_is_so(adapter, recipe, capfd):
    for combination in covering_combinations():
        if combination.adapter == adapter and (combination.way != "torch_compile" or adapter in COMPILED):
            assert attempt(recipe, combination) == said_of(combination), combination


def test_what_is_tried_holds_every_pair():
    axes = [("quantization", "adapter"), ("quantization", "way"), ("adapter", "way")]
    assert len(axes) == len(list(combinations(("quantization", "adapter", "way"), 2)))
    for pair in axes:
        tried = {tuple(getattr(one, name) for name in pair) for one in covering_combinations()}
        assert tried == {tuple(getattr(one, name) for name in pair) for one in all_combinations()}


def test_a_cell_names_what_is_refused_and_the_list_below_says_why():
    verdicts = dict.fromkeys(all_combinations(), WORKS)
    assert table(verdicts).count(WORKS) == len(ADAPTERS) * len(WAYS)
    verdicts[Combination("int8", "DoRA", "shared_prefix")] = "a"
    verdicts[Combination("nf4", "DoRA", "shared_prefix")] = "b"
    lines = table(verdicts).splitlines()
    assert next(line for line in lines if line.startswith("| DoRA |")).startswith(
        "| DoRA | works, but for nf4 (1), int8 (2) | works |"
    )
    assert lines[-3:] == ["", "1. `b`", "2. `a`"]
