"""Every problem of a recipe has its message."""

import pytest

from data.errors import UserError
from data.sources.forms import Reading
from tests.recipe_lines import problems
from train.recipe.load import load_recipe

# Files that are no recipe


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the recipe is empty; it needs at least model, data and training"),
        (b"# nothing\n", "the recipe is empty; it needs at least model, data and training"),
        (b"- a\n", "a recipe is a mapping of sections, not a list"),
        (b"model: {a: 1\ndata: 2\n", "line 2: not valid YAML: "),
        (b"model:\n\tname: x\n", "line 2: not valid YAML: "),
        (b"a: 1\n---\nb: 2\n", "line 2: not valid YAML: "),
        (b"a: !!python/name:os.system\n", "line 1: not valid YAML: "),
        (
            b"model:\n  dtype: float32\n  dtype: float16\n",
            "line 3: not valid YAML: the key 'dtype' is given twice",
        ),
        (b"a: &loop {b: *loop}\n", "line 1: not valid YAML: found unconstructable recursive node"),
        (b"a: \x00\n", "not valid YAML: "),
        (b"\xff\xfe\xfa", "not a text file"),
    ],
)
def test_not_a_recipe(tmp_path, content, said):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(f"{path}: {said}")
    assert "\n" not in str(caught.value)


def test_missing_recipe_and_folder(tmp_path):
    with pytest.raises(UserError, match="nowhere.yaml: no such recipe file"):
        load_recipe(tmp_path / "nowhere.yaml")
    with pytest.raises(UserError, match="cannot read the recipe: Is a directory"):
        load_recipe(tmp_path)


# Single values


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.num_frames=true", "data.num_frames: must be a whole number, got true"),
        ("data.num_frames=8.0", "data.num_frames: must be a whole number, got 8.0"),
        ("data.num_frames='8'", 'data.num_frames: must be a whole number, got "8"'),
        ("data.num_frames=0", "data.num_frames: must be greater than or equal to 1, got 0"),
        ("data.train=[]", "data.train: must be a list with at least one entry, got []"),
        ("data.train={path: a}", 'data.train: must be a list in [brackets], got {"path": "a"}'),
        (
            "data.train=[{path: 3}]",
            "data.train[0].path: must be text (quote what looks like a number), got 3",
        ),
        ("data.train=[{}]", "data.train[0].path: is missing; add it"),
        ("data.train=[{path: a, weight: 0}]", "data.train[0].weight: must be greater than 0, got 0"),
        ("model.revision=1234", "model.revision: must be text (quote what looks like a number), got 1234"),
        ("model.double_quantization=no", 'model.double_quantization: must be true or false, got "no"'),
        ("model=", "model: must be a mapping of keys, got null"),
        ("training=3", "training: must be a mapping of keys, got 3"),
        ("lora.r=0", "lora.r: must be greater than or equal to 1, got 0"),
        ("lora.dropout=1", "lora.dropout: must be less than 1, got 1"),
        ("lora.alpha=.inf", "lora.alpha: must be a whole number or a finite number, got Infinity"),
        ("lora.bias=all", "lora.bias: must be 'none' or 'lora_only', got \"all\""),
        ("training.max_steps='1'", 'training.max_steps: must be -1 or a whole number, got "1"'),
        ("training.learning_rate=fast", 'training.learning_rate: must be a number, got "fast"'),
        ("training.learning_rate=true", "training.learning_rate: must be a number, got true"),
        ("training.learning_rate=.nan", "training.learning_rate: must be a finite number, got NaN"),
        ("training.seed=1e3", "training.seed: must be a whole number, got 1000.0"),
        ("training.per_device_eval_batch_size=0", "must be greater than or equal to 1, got 0"),
        (
            "training.report_to=3",
            "report_to: must be text (quote what looks like a number) or a list in [brackets], got 3",
        ),
        (
            "lora.target=((",
            "lora.target: must be a regular expression (missing ), unterminated subpattern at position 1)",
        ),
        (
            "lora.init_lora_weights=eva",
            "lora.init_lora_weights: must be true or false or text that matches '^(gaussian|",
        ),
        (
            "training.dataloader_prefetch_factor=0",
            "training.dataloader_prefetch_factor: must be greater than or equal to 1",
        ),
        ("training.output_dir=''", 'training.output_dir: must be text that is not empty, got ""'),
        ("data.train[0].path=''", 'data.train[0].path: must be text that is not empty, got ""'),
        ("model.dtype=bfloat", "must be 'float32', 'bfloat16' or 'float16' (did you mean 'bfloat16'?), got"),
        (
            "training.gradient_checkpointing=selectiv",
            "training.gradient_checkpointing: must be true or false or 'selective' (did you mean 'selective'?), got",
        ),
        ("training.max_steps=0", "training.max_steps: must be -1 or greater than or equal to 1, got 0"),
        ("training.max_steps=-2", "training.max_steps: must be -1 or greater than or equal to 1, got -2"),
        ("training.num_train_epochs=0", "training.num_train_epochs: must be greater than 0, got 0"),
        ("training.learning_rate=0", "training.learning_rate: must be greater than 0, got 0"),
        ("training.warmup_steps=-1", "training.warmup_steps: must be greater than or equal to 0, got -1"),
        (
            "training.lr_scheduler_type=cosin",
            "must be one of transformers' names (did you mean 'cosine'?), got",
        ),
    ],
)
def test_wrong_values(minimal, override, said):
    (line,) = problems(minimal, override)
    assert said in line


def test_missing_keys_and_sections(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("training: {}\n")
    assert sorted(problems(path)) == [
        "data: is missing; add it",
        "model: is missing; add it",
        "training.output_dir: is missing; add it",
    ]


# Unknown keys


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "training.learning_rat=1",
            "training.learning_rat: is no key of a recipe; did you mean 'learning_rate'?",
        ),
        ("training.warmup_ratio=0.1", "did you mean 'warmup_steps'?"),
        ("lora.lora_alpha=1", "did you mean 'alpha'?"),
        ("trainig.seed=1", "did you mean 'training'?"),
        (
            "data.train=[{path: a, media_rot: b}]",
            "data.train[0].media_rot: is no key of a recipe; did you mean 'media_",
        ),
        (
            "model.num_frames=8",
            "model.num_frames: is no key of a recipe; it belongs to data: write data.num_frames",
        ),
        ("learning_rate=1", "it belongs to training: write training.learning_rate"),
        ("data.resume=auto", "it belongs to the top level: write resume"),
        ("lora.quantisation=nf4", "did you mean 'model.quantization'?"),
        ("zzz=1", "zzz: is no key of a recipe; the keys here are model, lora, data, resume, on_nonfinite, "),
        ("training.zzz=1", "training.zzz: is no key of a recipe; remove it"),
        (
            "training.gradient_accumulation_steps=4",
            "training.gradient_accumulation_steps: follows from data.rows_per_",
        ),
        ("training.resume_from_checkpoint=x", "the recipe's own key is `resume: auto | never | FOLDER`"),
        ("training.hub_token=hf_x", "use `hf auth login` or the variable HF_TOKEN"),
        ("data.1=2", "data.1: is no key of a recipe"),
    ],
)
def test_unknown_keys(minimal, override, said):
    (line,) = problems(minimal, override)
    assert said in line


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.seed", "'training.seed': write section.key=value, e.g. training.max_steps=10"),
        ("=3", "'=3': write section.key=value, e.g. training.max_steps=10"),
        ("training..seed=3", "'training..seed=3': write section.key=value, e.g. training.max_steps=10"),
        ("data.train=[1", "'data.train=[1': line 1: not valid YAML: "),
        ("data.train.path=x", "data.train.path: data.train has no keys; write data.train=value"),
    ],
)
def test_wrong_overrides(minimal, override, said):
    (line,) = problems(minimal, override)
    assert line.startswith(said)


# All at once


def test_all_problems_are_reported_together(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        """
model: {name_or_path: x, dtype: float32, num_frames: 8}
data: {train: [{path: a}], num_frame: 8, max_length: 9000}
training: {learning_rate: fast, eval_strategy: epoch, optimizer: {name: adamw}}
"""
    )
    with pytest.raises(UserError) as caught:
        load_recipe(path, ["lora.r=0", "training.lora.r=3", "training.optimizer.lr=1", "nonsense"])
    places = [line.split(": ")[:2] for line in str(caught.value).splitlines()]
    assert places[0] == ["command line", "'nonsense'"]
    assert sorted(places[1:]) == [
        [str(path), "data.max_tokens_per_row"],
        [str(path), "data.num_frame"],
        [str(path), "model.num_frames"],
        [str(path), "training.eval_strategy"],
        [str(path), "training.learning_rate"],
        [str(path), "training.optimizer"],
        [str(path), "training.output_dir"],
        ["command line", "lora.r"],
        ["command line", "training.lora"],
    ]


def test_a_column_that_records_do_not_have(minimal):
    with pytest.raises(UserError) as error:
        load_recipe(minimal, ["data.train[0].columns={qery: question}", "data.train[0].tags={speaker: who}"])
    columns, tags = sorted(str(error.value).splitlines())
    assert columns.endswith(
        "data.train[0].columns.qery: is none of the names that may stand here; did you mean 'query'?"
    )
    assert (
        "data.train[0].tags.speaker: is none of the names that may stand here; these are role_tag, content_tag" in tags
    )
    recipe = load_recipe(minimal, ["data.train[0].columns.query=question", "data.turns=strict"])
    (source,) = recipe.data.sources(recipe.data.train)
    assert source.reading == Reading({"query": "question"}, {}, strict_turns=True)
