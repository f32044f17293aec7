"""A base or an adapter of a stranger names Python files of its own: none runs, whoever says yes to questions."""

import io
import json
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch

from data.checkpoint_files import CODE_KEYS, PROCESSOR_FILES, check_settings
from data.errors import UserError
from tests.short_run import write_recipe
from tests.tiny_adapters import save_adapter
from train.commands.app import run
from train.merging.merge import merge_adapter
from train.model.load import load_model
from train.results.artifact import open_artifact
from train.results.hub import collect
from train.sft import main as train

CLASSES = {
    "AutoConfig": "evil.Evil",
    "AutoModel": "evil.Evil",
    "AutoModelForCausalLM": "evil.Evil",
    "AutoProcessor": "evil.Evil",
    "AutoTokenizer": ["evil.Evil", "evil.Evil"],
    "AutoImageProcessor": "evil.Evil",
    "AutoVideoProcessor": "evil.Evil",
}
OWN_TYPE, NESTED, AS_WELL, PIPELINE, GENERATION, PROCESSOR, TOKENIZER, PICTURES = (
    "an unknown model_type",
    "in the decoder's config",
    "beside a known model_type",
    "a pipeline",
    "a way to generate",
    "of the processor",
    "of the tokenizer",
    "of the pictures' processor",
)


@pytest.fixture
def yes(monkeypatch):
    """Somebody, or `yes |`, who answers every question with y."""
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 100))


@pytest.fixture
def base(model_folder, tmp_path) -> Path:
    """A base with a Python file beside it that leaves a trace when it is imported."""
    folder = Path(shutil.copytree(model_folder, tmp_path / "base"))
    code = f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\nclass Evil: pass\n"
    for name in ("evil.py", "custom_generate/generate.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(code)
    return folder


def change(file: Path, **settings) -> None:
    """Set some settings of a JSON file; those of None go."""
    content = json.loads(file.read_text()) | settings if file.exists() else settings
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def arm(base: Path, attack: str) -> None:
    text_config = json.loads((base / "config.json").read_text())["text_config"]
    match attack:
        case "an unknown model_type":
            change(base / "config.json", model_type="evil", auto_map=CLASSES)
        case "in the decoder's config":
            change(base / "config.json", text_config={**text_config, "auto_map": CLASSES})
        case "beside a known model_type":
            change(base / "config.json", auto_map=CLASSES)
        case "a pipeline":
            change(base / "config.json", custom_pipelines={"video-qa": {"impl": "evil.Evil"}})
        case "a way to generate":
            change(base / "generation_config.json", custom_generate="evil")
        case "of the processor":
            change(base / "processor_config.json", auto_map=CLASSES, processor_class="Evil")
        case "of the tokenizer":
            change(base / "tokenizer_config.json", auto_map=CLASSES, tokenizer_class="Evil")
        case "of the pictures' processor":
            change(base / "preprocessor_config.json", auto_map=CLASSES, image_processor_type="Evil")


def refused(arguments: list, capsys) -> str:
    """Run a command, check that it refuses in one line, and return that line."""
    with pytest.raises(SystemExit) as end:
        run([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    *_, line = err.splitlines()
    assert end.value.code == 2 and line.startswith("error: ") and "Traceback" not in err and "[y/N]" not in out + err
    return line


@pytest.mark.parametrize(
    "attack", [OWN_TYPE, NESTED, AS_WELL, PIPELINE, GENERATION, PROCESSOR, TOKENIZER, PICTURES], ids=str
)
def test_a_base_that_names_code_is_refused_by_every_command(attack, base, mixed_file, tmp_path, yes, capsys):
    arm(base, attack)
    recipe = write_recipe(tmp_path, base, mixed_file, {}, {}, {"max_steps": 1})
    adapter = save_adapter_on(base, tmp_path)
    lines = [
        refused(["generate", base, "--prompt", "What?"], capsys),
        refused(["generate", adapter, "--prompt", "What?"], capsys),
    ]
    if attack != GENERATION:  # which those who decode nothing do not read
        lines.append(refused(["check", recipe, "--workers", 1], capsys))
    with pytest.raises(UserError) as caught:
        train([str(recipe)])
    for line in [*lines, str(caught.value)]:
        assert "no code of a checkpoint is ever run" in line or "is a 'evil' model" in line, line
        assert str(base) in line
    assert not (tmp_path / "ran").exists()


def save_adapter_on(base: Path, tmp_path: Path) -> Path:
    """Return an adapter's folder that names `base`, without loading it."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    settings = {"peft_type": "LORA", "base_model_name_or_path": str(base), "r": 4, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    torch.save({}, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize("key", sorted(CODE_KEYS))
def test_code_is_found_at_any_depth(key):
    with pytest.raises(UserError, match=f"base: config.json names code of its own .{key}., and no code"):
        check_settings("base: config.json", {"a": [{"b": {key: "evil.Evil"}}]})
    check_settings("base: config.json", {"a": [{"b": {key: None}}], "c": key})


def test_a_base_that_is_refused_by_load_model_runs_nothing(base, yes, tmp_path):
    for attack in (OWN_TYPE, NESTED, AS_WELL, GENERATION):
        arm(base, attack)
        with pytest.raises(UserError, match="no code of a checkpoint is ever run|is a 'evil' model"):
            load_model(str(base))
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_run_nothing(base, tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    (base / "model.safetensors").unlink()
    torch.save({"weight": Evil()}, base / "pytorch_model.bin", pickle_module=pickle)
    with pytest.raises(UserError, match="cannot load .*base: Weights only load failed") as caught:
        load_model(str(base))
    assert "\n" not in str(caught.value) and not (tmp_path / "ran").exists()


def test_an_adapter_beside_a_model_is_not_put_on_it_silently(base, model_folder, tmp_path):
    shutil.copytree(save_adapter(model_folder, tmp_path / "adapter"), base, dirs_exist_ok=True)
    with pytest.raises(UserError, match="has adapter_config.json beside config.json"):
        load_model(str(base))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"auto_mapping": {"base_model_class": "Evil", "parent_library": "evil"}}, "no code of an adapter is ever run"),
        ({"auto_mapping": {"parent_library": "transformers", "base_model_class": "Evil"}}, "it must be for a VideoLl"),
        ({"auto_mapping": "evil"}, "no code of an adapter is ever run"),
        ({"auto_map": CLASSES}, "no code of an adapter is ever run"),
        ({"megatron_config": {"a": 1}, "megatron_core": "evil"}, "this setting of PEFT is not supported"),
        ({"layer_replication": [[0, 4], [0, 4]]}, "this setting of PEFT is not supported"),
        ({"loftq_config": {"loftq_bits": 4}}, "this setting of PEFT is not supported"),
        ({"peft_type": "PROMPT_TUNING"}, "only 'LORA' adapters are loaded"),
        ({"peft_type": ["LORA"]}, "only 'LORA' adapters are loaded"),
        ({"base_model_name_or_path": {"a": 1}}, "it must be a text"),
        ({"revision": 5}, "it must be a text"),
        ({"r": 10**9}, "a rank is a number from 1 to 4096"),
        ({"rank_pattern": {"q_proj": -1}}, "a rank is a number from 1 to 4096"),
        ({"rank_pattern": [1]}, "it must have a number for each pattern"),
        ({"alpha_pattern": {"q_proj": "much"}}, "it must be a number"),
        ({"target_modules": 5}, "it must be a pattern or a list of names"),
        ({"modules_to_save": [""]}, "it must be a pattern or a list of names"),
    ],
)
def test_an_adapter_asks_peft_for_matrices_alone(settings, words, model_folder, tmp_path, monkeypatch):
    adapter = save_adapter_on(model_folder, tmp_path)
    monkeypatch.syspath_prepend(str(adapter))
    (adapter / "evil.py").write_text(f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n")
    (adapter / "tokenizer_config.json").write_text("{}")
    change(adapter / "adapter_config.json", **settings)
    for attempt in (
        lambda: open_artifact(str(adapter)),
        lambda: open_artifact(str(adapter), base=str(model_folder)),
        lambda: merge_adapter(str(adapter), tmp_path / "merged"),
        lambda: collect(adapter, "me/my-model"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            attempt()
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert not (tmp_path / "ran").exists()


def test_what_peft_itself_writes_of_a_video_llava_is_accepted(model_folder, tmp_path):
    adapter = save_adapter_on(model_folder, tmp_path)
    library = "transformers.models.video_llava.modeling_video_llava"
    written = {"base_model_class": "VideoLlavaForConditionalGeneration", "parent_library": library}
    change(adapter / "adapter_config.json", auto_mapping=written, megatron_core="megatron.core", loftq_config={})
    assert open_artifact(str(adapter)).is_adapter


def test_all_loads_say_that_no_code_is_trusted():
    """A load that does not say so asks, where a base names code, and runs it on a y."""
    loads = []
    for folder in ("train", "data", "scripts"):
        for path in sorted((Path(__file__).parents[2] / folder).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            calls = re.finditer(r"\b(\w+)\.from_pretrained\(.*?\)\n", text, re.DOTALL)
            loads += [(path.name, call[1], call[0]) for call in calls]
    of_peft = {"PeftModel", "PeftConfig", "LoraConfig"}  # it runs no code of adapters, see `check_adapter_settings`
    ours = [load for load in loads if load[0] != "snippet.py" and load[1] not in of_peft]
    assert len(ours) > 5
    assert [load for load in ours if "trust_remote_code=False" not in load[2]] == []


def test_the_files_that_are_looked_at_are_those_that_transformers_reads():
    assert {"processor_config.json", "preprocessor_config.json", "tokenizer_config.json"} <= set(PROCESSOR_FILES)
