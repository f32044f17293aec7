"""Files, tests, anchors, tables and figures that the documents name, link and show exist and are current."""

import ast
import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from transformers import TrainingArguments

from data.media.http_file import PAUSES
from data.media.locate import Locator
from data.packing.layout import dense_mask
from data.sources.conversation import parse_record
from scripts.demo.walkthrough import show
from tests.documents import (
    EVERYTHING,
    PAGES,
    README,
    ROOT,
    anchors,
    blocks,
    commands,
    files,
    links,
    prose,
    sessions,
    table_rows,
)
from train.recipe.load import load_recipe
from train.recipe.recipe import Data, Dataset
from train.recipe.yaml_text import read_recipe

IMAGES = ROOT / ".github" / "images"
FOLDERS = ("train", "data", "scripts", "recipes", "accelerate_configs", "tests", "docs", ".github", ".ci")
LARGEST_PICTURE = 200_000  # bytes


def test_the_parsers_of_these_tests():
    text = (
        "# A `b`: c, d\n```bash\na b  # c\n\nd \\\n    e\n```\n`x/y.json`\n\n```json\n{}\n```\n```yaml\nz: 1\n```\n"
        "```console\n$ a --b\nc\nd\n```\n| a | b |\n| --- | --- |\n| [c](d.md#e) | x \\| y |\n"
    )
    assert commands(text) == ["a b", "d e"] and blocks(text, "yaml") == ["z: 1\n"]
    assert files(text) == {"x/y.json": "{}\n"}
    assert sessions(text) == [("a --b", "c\nd\n")]
    assert anchors(text) == ["a-b-c-d"] and links(text) == ["d.md#e"]
    assert table_rows(text) == [["a", "b"], ["---", "---"], ["[c](d.md#e)", "x \\| y"]]


# The README: two screens


def test_the_readme_is_two_screens():
    assert len(README.splitlines()) <= 200 and len(README.split()) <= 2000
    pictures = re.findall(r"^!\[.+\]\((.+)\)$", README, re.MULTILINE)
    assert len(pictures) >= 3
    for picture in pictures:
        assert (ROOT / picture).stat().st_size < LARGEST_PICTURE, picture


def test_the_two_commands_come_first():
    assert commands(README)[:2] == ["make demo", "make test"]


def test_the_demo_s_lines_are_as_shown(capsys):
    (shown,) = blocks(README, "text")
    share = r"([\d.]+)%"
    seconds, *shares = re.search(
        rf"Done in (\d+) s.*before {share}, after {share}, merged {share}\n.*before {share}, after {share}",
        shown,
        re.DOTALL,
    ).groups()
    names = ("accuracy_before", "accuracy_after", "accuracy_merged", "kept_before", "kept_after")
    show({"seconds": int(seconds), **{name: float(text) / 100 for name, text in zip(names, shares, strict=True)}})
    assert capsys.readouterr().out.lstrip("\n") == shown


# Links and names


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in links(PAGES[page]):
        path, _, anchor = link.partition("#")
        if re.match(r"https://[\w.-]+/\S", link):
            continue
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f"{page}: {link}"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{page}: {link}"


def test_the_index_has_every_page():
    shown = set(links(PAGES["docs/README.md"]))
    assert {path.name for path in (ROOT / "docs").iterdir() if path.is_file()} - {"README.md"} <= shown


def test_no_page_stands_alone():
    linked = {((ROOT / page).parent / link.split("#")[0]).resolve() for page in PAGES for link in links(PAGES[page])}
    assert [page for page in PAGES if page != "README.md" and (ROOT / page).resolve() not in linked] == []


def named_paths() -> Iterator[str]:
    for text in re.findall(r"`([^`\n]+)`", prose(EVERYTHING)):
        for word in text.split():
            if word.split("/")[0] in FOLDERS and "/" in word or word.endswith((".md", ".txt")):
                yield word


def test_files_and_tests_that_are_named_exist():
    names = list(dict.fromkeys(named_paths()))
    assert "tests/fixtures.py" in names and len(names) > 20
    for name in names:
        path, _, test = name.partition("::")
        assert (ROOT / path).exists() or any(ROOT.glob(path)), name
        if test:
            body = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
            assert test in [node.name for node in body if isinstance(node, ast.FunctionDef)], name


# These try what machines do; all other modules beside them try what strangers do.
OF_MACHINES = {
    *("test_answers_kept", "test_bad_media", "test_damage", "test_disk", "test_features_kept", "test_fill_cache"),
    *("test_full_disk", "test_interruption", "test_nonfinite", "test_results_kept"),
}


def test_every_attack_has_its_line_with_what_happens():
    shown = {}
    for section in PAGES["docs/security.md"].split("\n### ")[1:]:
        head, _, *rows = table_rows(section)
        shown[Path(head[2].strip("`")).stem] = [test.strip("`") for _, _, test in rows]
        assert all(attack and happens for attack, happens, _ in rows)
    modules = {path.stem: path for path in (ROOT / "tests" / "safety").glob("test_*.py")}
    assert modules.keys() - OF_MACHINES == shown.keys() and modules.keys() >= OF_MACHINES
    for name, tests in shown.items():
        body = ast.parse(modules[name].read_text(encoding="utf-8")).body
        there = [node.name for node in body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
        assert sorted(tests) == sorted(there), name


def test_every_accelerate_config_is_in_the_table():
    cells = [row[0] for row in table_rows(PAGES["docs/distributed.md"])]
    shown = [name for cell in cells for name in re.findall(r"`(\w+\.yaml)`", cell)]
    assert sorted(shown) == sorted(path.name for path in (ROOT / "accelerate_configs").glob("*.yaml"))


def test_every_recipe_is_in_the_table_of_what_runs_where():
    shown = re.findall(r"^\| `(recipes/\w+\.yaml)` \|", README, re.MULTILINE)
    there = {path.relative_to(ROOT).as_posix() for path in (ROOT / "recipes").glob("*.yaml")}
    assert set(shown) == there - {"recipes/demo_base.yaml"}  # make_demo.py trains the demo's base with it


# What is generated


def test_generated_files_are_current():
    """When this fails: python scripts/write_recipe_table.py, python scripts/draw_mask.py"""
    tables = runpy.run_path(str(ROOT / "scripts/write_recipe_table.py"))["with_tables"]
    assert tables(PAGES["docs/recipe.md"]) == PAGES["docs/recipe.md"]
    mask = runpy.run_path(str(ROOT / "scripts/draw_mask.py"))
    assert mask["PICTURE"].read_text(encoding="utf-8") == mask["mask_svg"]()
    assert str(mask["PICTURE"].relative_to(ROOT)) in README


def test_the_table_has_every_key_with_its_default():
    rows = dict(re.findall(r"^\| `([\w.\[\]]+)` \| (\S*) \|", PAGES["docs/recipe.md"], re.MULTILINE))
    schema = json.loads((ROOT / "recipes/recipe.schema.json").read_text())["$defs"]
    for section, name in (("model", "Model"), ("lora", "Lora"), ("data", "Data"), ("data.train[]", "Dataset")):
        for key, about in schema[name]["properties"].items():
            shown = rows[f"{section}.{key}"]
            assert (
                shown == "required" if "default" not in about else yaml.safe_load(shown.strip("`")) == about["default"]
            )
    assert rows["lora.r"] == "`128`" and rows["training.logging_steps"] == "`10`"


def test_the_picture_has_a_square_for_each_pair_that_sees_each_other():
    layout = runpy.run_path(str(ROOT / "scripts/draw_mask.py"))["LAYOUT"]
    squares = ElementTree.parse(IMAGES / "shared_prefix_mask.svg").findall(".//*[@class='seen']")
    by_hand = sum(
        prefix * (prefix + 1) // 2 + sum(length * prefix + length * (length + 1) // 2 for length in suffixes)
        for prefix, suffixes in layout.groups
    )
    assert len(squares) == by_hand == int(dense_mask(layout).sum())


# Examples


def test_the_examples_of_sources_are_entries_and_parts(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    table = PAGES["docs/data.md"].partition("<!-- sources -->")[2].partition("<!-- end of sources -->")[0]
    examples = [code for row in table_rows(table)[2:] for code in re.findall(r"`([^`]+)`", row[1])]
    parts = [json.loads(example) for example in examples if example.startswith('{"')]
    entries = [yaml.safe_load(example) for example in examples if not example.startswith('{"')]
    assert len(parts) == 4 and len(entries) == 7
    for entry in entries:
        Dataset.model_validate(entry)
    for part in parts:
        typed = [{"role": "user", "content": [part]}, {"role": "assistant", "content": "red"}]
        listed = {key: value for key, value in part.items() if key != "type"}
        turns = [{"from": "human", "value": f"<{part['type']}>"}, {"from": "gpt", "value": "red"}]
        records = {"messages": typed}, {part["type"]: listed, "conversations": turns}
        media = [parse_record(record, "record 1", Locator((Path("m"),))).media for record in records]
        assert len(media[0]) == 1 and media[0] == media[1]


@pytest.mark.parametrize("record", [text for page in PAGES.values() for text in blocks(page, "json")])
def test_examples_of_records_are_read(record):
    given = json.loads(record)
    for each in given if isinstance(given, list) else [given]:
        assert parse_record(each, "record 1", Locator((Path("m"),))).media


@pytest.mark.parametrize("page", PAGES)
def test_every_piece_of_a_recipe_fits_into_one(page, tmp_path):
    named = files(PAGES[page]).values()
    for text in blocks(PAGES[page], "yaml"):
        if text in named:  # the commands of the page read it
            continue
        piece = yaml.safe_load(text)
        needed = {"model": {"name_or_path": "a"}, "training": {"output_dir": "b"}}
        recipe = {**needed, **piece, "training": {**needed["training"], **piece.get("training", {})}}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        load_recipe(tmp_path / "recipe.yaml")


def test_editors_accept_the_own_recipe_and_mark_a_wrong_key(tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((ROOT / "recipes/recipe.schema.json").read_text())
    (tmp_path / "my_recipe.yaml").write_text(files(README)["my_recipe.yaml"])
    recipe = read_recipe(tmp_path / "my_recipe.yaml")
    jsonschema.validate(recipe, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**recipe, "lora": {"rank": 8}}, schema)


# Figures that follow from others


def test_the_saving_that_is_claimed():
    clip, text, *claims = re.search(
        r"With P = (\d+) and T = (\d+) these are ([\d.]+) times fewer tokens at (\d+) questions a clip, "
        r"and (\d+) times at (\d+)\.",
        " ".join(PAGES["docs/packing.md"].split()),
    ).groups()
    prefix, suffix = int(clip), int(text)
    for ratio, questions in (claims[:2], claims[2:]):
        k, digits = int(questions), len(ratio.partition(".")[2])
        assert round(k * (prefix + suffix) / (prefix + k * suffix), digits) == float(ratio)


def test_the_readme_s_table_of_the_idea_is_that_of_its_page():
    """Tokens by the formula with P = 2056 and T = 25; seconds and ratios as packing.md has them with their command."""
    shown = {row[0]: row for row in table_rows(README) if len(row) == 6 and row[0].isdigit()}
    measured = {row[0]: row for row in table_rows(PAGES["docs/packing.md"]) if len(row) == 9 and row[0].isdigit()}
    assert shown.keys() == measured.keys() and len(shown) == 3
    for questions, (_, separate, ours, plain_s, ours_s, ratio) in shown.items():
        k, (_, _, plain, here, _, to_plain, *_) = int(questions), measured[questions]
        assert (separate, ours) == (f"{k * (2056 + 25):,}", f"{2056 + k * 25:,}")
        assert (f"{plain_s} s", f"{ours_s} s", ratio) == (plain, here, to_plain.split()[0])
    faster, fastest = re.search(
        r"([\d.]+) times faster than .* at 8 questions a clip, (\d+) times at 25", joined(README)
    ).groups()
    assert float(faster) == round(float(shown["8"][5][:-1]), 1) and int(fastest) == round(float(shown["25"][5][:-1]))
    assert max(float(row[8]) for row in measured.values()) < 1e-6  # "less than 1e-6"


def joined(document: str) -> str:
    return " ".join(document.split())


def test_the_readme_s_figures_of_a_gpu_are_those_of_its_page():
    rows = {row[0]: row for row in table_rows(PAGES["docs/gpu.md"])}
    compiled, qlora = rows["`flash`, compiled"], rows["one clip"]
    words = f"trains {compiled[2]} questions a second (compiled), {compiled[3].rstrip('x')} times"
    assert words in joined(README) and f"QLoRA peaks at {qlora[5]}:" in joined(README)


def test_the_demo_s_figures_are_the_same_everywhere():
    (shown,) = blocks(README, "text")
    cells = {row[0]: [cell.replace(" ", "") for cell in row[1:]] for row in table_rows(PAGES["docs/evaluation.md"])}
    for name, column, line in (("before", 0, 1), ("after", 0, 1), ("merged", 0, 1), ("before", 1, 2), ("after", 1, 2)):
        assert f"{name} {cells[name][column]}" in shown.splitlines()[line]
    seconds = re.search(r"Done in (\d+) s", shown)[1]
    assert f": {seconds} s, and " in PAGES["docs/evaluation.md"]


def test_sizes_and_times_follow_from_the_shape_and_the_defaults():
    caches = PAGES["docs/decoding-and-caches.md"]
    assert f"{8 * 224 * 224 * 3 / 1e6:.1f} MB for a clip of 8 frames" in joined(caches)
    assert f"{8 * 257 * 1024 * 2 / 1e6:.1f} MB a clip for the 7B model" in joined(caches)  # CLIP ViT-L/14, bfloat16
    timeout = TrainingArguments.__dataclass_fields__["ddp_timeout"].default
    assert f"`training.ddp_timeout` ({timeout:,} s)" in joined(PAGES["docs/distributed.md"])
    assert f"the run waits for {sum(PAUSES):.0f} seconds" in joined(PAGES["docs/data.md"])
    share = Data.model_fields["max_bad_media"].default
    assert f"of the training files ({share:.0%})" in joined(PAGES["docs/recovery.md"]).replace(" %", "%")


def test_the_killed_runs_are_those_of_the_figures():
    single, double = re.search(r"all (\d+) and (\d+) chains", joined(PAGES["CONTRIBUTING.md"])).groups()
    assert f"All {int(single) + int(double)} runs" in joined(README)
    assert f"All {single} and all {double} runs" in joined(PAGES["docs/recovery.md"])


def test_the_cost_of_scale_follows_from_its_formulas():
    page = PAGES["docs/distributed.md"]
    total, decoder = (float(re.search(rf"{letter} = ([\d.]+e9)", page)[1]) for letter in "WD")
    adapter = 128 * (4 * 2 * 4096 + 3 * (4096 + 11008)) * 32  # Vicuna's hidden and intermediate size, 32 layers
    rows = re.findall(r"^\| (8|64|512) \| ([\d.]+ GB, .*) \|$", page, re.MULTILINE)
    assert len(rows) == 3
    for number, cells in rows:
        gpus = int(number)
        share, speed = (gpus - 1) / gpus, 300 if gpus == 8 else 50
        sent = [8 * adapter, 4 * total + 4 * adapter, 4 * total + 2 * decoder]
        ddp = 2 * total + 16 * adapter
        held = [ddp, ddp / gpus, (2 * (total - decoder) + 16 * decoder) / gpus]
        expected = [
            cell
            for out, memory in zip(sent, held, strict=True)
            for cell in (f"{share * out / 1e9:.1f} GB, {share * out / 1e9 / speed:.2f} s", f"{memory / 1e9:.1f} GB")
        ]
        assert cells.split(" | ") == expected


def test_arrows_that_follow_from_others_are_left_out():
    drawing = runpy.run_path(str(ROOT / "scripts/draw_rooms.py"))
    table = {"data": (), "data.b": ("data",), "data.c": ("data", "data.b"), "train.d": ("data",)}
    direct = {"data": [], "data.b": ["data"], "data.c": ["data.b"], "train.d": ["data"]}
    assert drawing["direct"](table) == direct
    picture = ElementTree.fromstring(drawing["rooms_svg"](table))
    assert len(picture.findall(".//*[@class='room']")) == 4
    assert len([path for path in picture.findall("{*}path") if path.get("marker-end")]) == 3
