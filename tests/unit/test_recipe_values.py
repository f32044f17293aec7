"""Whatever values stand in a recipe or an override."""

import json
from contextlib import suppress

import yaml
from hypothesis import given
from hypothesis import strategies as st

from data.errors import UserError
from train.recipe.load import KNOWN_KEYS, load_recipe
from train.recipe.yaml_text import parse_override, read_recipe, set_override, to_yaml

# Without control characters and the exotic line breaks, which PyYAML folds, and what YAML forbids.
texts = st.text(st.characters(exclude_categories=["Cc", "Cs", "Cn", "Zl", "Zp"]) | st.sampled_from("\n\t"))
names = st.from_regex(r"[a-z_]+", fullmatch=True)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=8)


@given(keys=st.lists(names, min_size=1, max_size=4), value=values)
def test_json_is_an_override_value(keys, value):
    text = ".".join(keys) + "=" + json.dumps(value, ensure_ascii=False)
    assert parse_override(text) == (tuple(keys), value)


@given(keys=st.lists(names, min_size=1, max_size=4), value=values)
def test_an_override_is_found_where_its_keys_lead(keys, value):
    recipe = {}
    set_override(recipe, tuple(keys), value)
    for key in keys:
        recipe = recipe[key]
    assert recipe == value


@given(value=values)
def test_what_is_written_is_read_back(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(to_yaml({"value": value}), encoding="utf-8")
    assert read_recipe(path) == {"value": value}
    assert yaml.safe_load(path.read_text(encoding="utf-8")) == {"value": value}  # YAML 1.1 readers agree


anything = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.integers() | texts, inner), max_leaves=4
)
places = st.sampled_from([f"{section}.{key}".strip(".") for section in KNOWN_KEYS for key in KNOWN_KEYS[section]])


@given(changes=st.dictionaries(places, anything, min_size=1, max_size=3))
def test_whatever_is_written_is_a_recipe_or_a_user_error(tmp_path_factory, changes):
    recipe = {
        "model": {"name_or_path": "x"},
        "data": {"train": [{"path": "a"}]},
        "training": {"output_dir": "o"},
    }
    for place, value in changes.items():
        with suppress(UserError):  # a section that an earlier change made a list or a number
            set_override(recipe, tuple(place.split(".")), value)
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(to_yaml(recipe), encoding="utf-8")
    try:
        load_recipe(path).dump()
    except UserError as error:
        assert all(line.startswith(f"{path}: ") for line in str(error).splitlines())
