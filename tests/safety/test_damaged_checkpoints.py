"""Files of a stranger's model, processor and adapter that are damaged, or made to hang or to fill the memory."""

import json
import os
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from data import untrusted
from data.errors import UserError
from data.processor import set_up_processor
from data.untrusted import refusal_of_patterns, refusal_of_template
from data.video_llava import CHAT_TEMPLATE
from tests.tiny_adapters import save_adapter
from train.model.load import load_model
from train.results.artifact import open_artifact
from train.results.loading import add_saved_adapter, load

DEEP = "[" * 100_000
LONG_NUMBER = '{"vocab_size": %s}' % ("9" * 5000)


@pytest.fixture
def base(model_folder, tmp_path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "base"))


def one_line(attempt) -> str:
    with pytest.raises(UserError) as caught:
        attempt()
    text = str(caught.value)
    assert "\n" not in text and len(text) < 600, text
    return text


def sound(file: Path) -> str:
    return file.read_text()


DAMAGES = [b"", b"[]", b"5", b"{bad", DEEP.encode(), LONG_NUMBER.encode(), b"\xff\xfe\x00", bytes(range(256))]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((name, content) for name in ("tokenizer.json", "tokenizer_config.json") for content in DAMAGES),
        *((name, content) for name in ("processor_config.json", "config.json") for content in DAMAGES),
        ("tokenizer.json", b'{"a": 1}'),
        ("tokenizer_config.json", b'{"tokenizer_class": 5}'),
        ("processor_config.json", b'{"image_processor": 5, "patch_size": "x"}'),
        ("config.json", b'{"a": 1}'),
        ("chat_template.jinja", bytes(range(256))),
    ],
    ids=lambda value: value if isinstance(value, str) else value[:24].hex() or "empty",
)
def test_a_damaged_file_is_one_line(name, content, base):
    (base / name).write_bytes(content)
    assert str(base) in one_line(lambda: set_up_processor(str(base), num_frames=8))


def test_a_file_without_end_is_not_read_to_it(base, monkeypatch):
    monkeypatch.setattr("data.checkpoint_files.MAX_JSON", 1000)
    (base / "config.json").write_text(json.dumps({"model_type": "video_llava", "a": "x" * 2000}))
    assert "config.json is damaged: it has more than" in one_line(lambda: set_up_processor(str(base), num_frames=8))


@pytest.mark.parametrize(
    ("file", "path", "value"),
    [
        ("config.json", ("text_config", "num_hidden_layers"), 10**9),
        ("config.json", ("text_config", "hidden_size"), 10**15),
        ("config.json", ("text_config", "hidden_size"), "256"),
        ("config.json", ("text_config", "num_attention_heads"), 0),
        ("config.json", ("text_config", "hidden_act"), "evil"),
        ("config.json", ("text_config", "dtype"), "nn"),
        ("config.json", ("vision_config", "image_size"), 10**8),
        ("config.json", ("vision_config", "patch_size"), 0),
        ("config.json", ("model_type",), ["video_llava"]),
        ("config.json", ("text_config",), 5),
        ("processor_config.json", ("image_processor", "crop_size", "height"), 10**8),
        ("processor_config.json", ("video_processor", "size", "shortest_edge"), 10**8),
        ("processor_config.json", ("image_processor", "crop_size", "height"), -5),
    ],
)
def test_sizes_that_no_model_has_are_refused_before_they_fill_the_memory(file, path, value, base):
    content = json.loads((base / file).read_text())
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (base / file).write_text(json.dumps(content))
    assert str(base) in one_line(lambda: (set_up_processor(str(base), num_frames=8), load_model(str(base))))


@pytest.mark.parametrize("content", [b"", b"\xff" * 1000, None, b"\x10\0\0\0\0\0\0\0" + b"[" * 16], ids=str)
def test_damaged_weights_are_one_line(content, base):
    whole = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert str(base) in one_line(lambda: load_model(str(base)))
    adapter = open_artifact(str(base))
    assert str(base) in one_line(lambda: load(adapter))


@pytest.mark.parametrize("weight_map", [5, {}, {"a": 5}, {"a": "../../secret.safetensors"}, {"a": "/etc/passwd"}])
def test_an_index_of_weights_names_files_beside_it(weight_map, base):
    (base / "model.safetensors").unlink()
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    from train.model.weight_files import identify_base

    assert "its weight_map must give the name of a file beside it" in one_line(lambda: identify_base(str(base)))


def test_weights_of_another_shape_are_one_short_line(base):
    config = json.loads((base / "config.json").read_text())
    config["text_config"] |= {"hidden_size": 256, "head_dim": 64}
    (base / "config.json").write_text(json.dumps(config))
    text = one_line(lambda: load_model(str(base)))
    assert " weights of " in text and " instead of (" in text


def test_an_adapter_on_a_base_of_another_shape_is_one_short_line(model_folder, tmp_path):
    """torch names each of the 56 matrices with both shapes: ten thousand letters."""
    adapter = save_adapter(model_folder, tmp_path / "adapter")
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file({name: weight.repeat(1, 2) for name, weight in weights.items()}, adapter / "adapter_model.safetensors")
    artifact = open_artifact(str(adapter))
    text = one_line(lambda: add_saved_adapter(load_model(str(model_folder)), artifact))
    assert "size mismatch for" in text and "more); give the base it was trained on with --base" in text
    assert len(text) < 500 + len(str(adapter)) + len(str(model_folder))


TEMPLATES = {
    "a loop for days": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a large range": "{% for i in range(10**9) %}x{% endfor %}",
    "memory": "{{ 'a' * 10**11 }}",
    "a long text": "{{ 'a' * 10**7 }}",
    "numbers": "{{ 9**(9**9) }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "Python's classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "a file": "{% include '/etc/passwd' %}",
    "an import": "{% import 'os' as os %}{{ os.system('true') }}",
    "always refuses": "{{ raise_exception('no') }}",
    "no template": "{% for",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_neither_run_for_ever_nor_fill_the_memory(name, base, monkeypatch):
    monkeypatch.setattr(untrusted, "SECONDS", 1)
    (base / "chat_template.jinja").write_text(TEMPLATES[name])
    text = one_line(lambda: set_up_processor(str(base), num_frames=8))
    assert "its chat template cannot be used: " in text


def test_sound_templates_are_taken_as_they_are():
    """Those that others wrote for models of this kind: a system prompt of its own, roles that must alternate."""
    alternating = "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    for template in (
        CHAT_TEMPLATE,
        alternating + "{{ m['content'] | tojson }}{% generation %}x{% endgeneration %}{% endfor %}",
        "{%- for m in messages %}{% if loop.index > 9 %}{% break %}{% endif %}{{ strftime_now('%Y') }}{% endfor %}",
    ):
        assert refusal_of_template(template, {"eos_token": "</s>"}) is None


def test_patterns_of_an_adapter_do_not_run_for_ever(model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(untrusted, "SECONDS", 1)
    adapter = save_adapter(model_folder, tmp_path / "adapter")
    settings = json.loads((adapter / "adapter_config.json").read_text())
    settings["target_modules"] = r"(\w+\.?)+!"
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    artifact = open_artifact(str(adapter))
    text = one_line(lambda: add_saved_adapter(load_model(str(model_folder)), artifact))
    assert "its patterns cannot be used: matching takes more than 1 seconds of a core" in text
    assert refusal_of_patterns([r".*\b(language_model)\b.*\.(q_proj|k_proj)"], ["a.language_model.0.q_proj"]) is None
    assert "is no regular expression" in refusal_of_patterns(["("], [])


def test_a_pipe_in_place_of_a_file_is_not_waited_for(base):
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (base / name).unlink()
        os.mkfifo(base / name)
    one_line(lambda: set_up_processor(str(base), num_frames=8))
    one_line(lambda: load_model(str(base)))
    one_line(lambda: open_artifact(str(base)))


@pytest.mark.parametrize("values", [{"dtype": "nn"}, {"quantization": "evil"}, {"base_digest": None}])
def test_a_fingerprint_of_a_stranger_is_one_line(values, model_folder, tmp_path):
    adapter = save_adapter(model_folder, tmp_path / "adapter")
    known = {"base_digest": "0", "dtype": "float32"} | values
    metadata = {name: value for name, value in known.items() if value is not None}
    save_file({}, adapter / "fingerprint.safetensors", metadata=metadata)
    assert "fingerprint.safetensors is damaged" in one_line(lambda: open_artifact(str(adapter)))
