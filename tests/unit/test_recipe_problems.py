"""Every problem of a recipe has its message."""

import pytest

from data.errors import UserError
from data.sources.forms import Reading
from train.recipe.load import load_recipe

WITH_EVAL = "data.eval=[{path: val.json}]"
STREAMED = "data.streaming=true"


def problems(path, *overrides):
    """Return the lines of the error, without the name of the file or `command line`."""
    with pytest.raises(UserError) as caught:
        load_recipe(path, overrides)
    return [line.split(": ", 1)[1] for line in str(caught.value).splitlines()]


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
        ("model.dtype=bfloat", "must be 'float32', 'bfloat16' or 'float16' (did you mean 'bfloat16'?), got"),
        (
            "training.gradient_checkpointing=selectiv",
            "training.gradient_checkpointing: must be true or false or 'selective' (did you mean 'selective'?), got",
        ),
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


# Combinations


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["lora="], "model.trainable: is needed with lora: null"),
        (["model.trainable=all"], "model.trainable: 'all' is for full fine-tuning; write lora: null"),
        (
            ["lora=", "model.trainable=all", "model.quantization=nf4"],
            "model.quantization: nf4 weights cannot be",
        ),
        (
            ["lora.use_dora=true", "model.quantization=int8"],
            "lora.use_dora: DoRA reads the scales of weights",
        ),
        (
            ["lora.init_lora_weights=orthogonal", "lora.r=5"],
            "lora.init_lora_weights: orthogonal needs an even rank, not 5",
        ),
        (["data.frame_sampling=fps"], "data.frames_per_second: is needed for frame_sampling: fps; write it"),
        (["data.frames_per_second=2.0"], "data.frames_per_second: is only for frame_sampling: fps; remove it"),
        ([STREAMED], "training.max_steps: is needed with data.streaming"),
        (
            [STREAMED, "training.max_steps=9", "training.save_strategy=epoch"],
            "training.save_strategy: a stream is one epoch without an end",
        ),
        (
            [STREAMED, "training.max_steps=9", "data.train=[{path: a, weight: 2}]"],
            "data.train: a stream takes its sources as they are",
        ),
        (
            [STREAMED, "training.max_steps=9", "data.feature_cache=features"],
            "data.feature_cache: is filled before training",
        ),
        (["data.eval=[{path: a, weight: 2}]"], "data.eval: weight is for training"),
        (
            ["data.eval=[{path: a, metric: auto, name: V}, {path: b, name: v}]"],
            "data.eval: name: 'v' is the name of several sources",
        ),
        (["data.eval=[{path: a, max_questions: 9}]"], "data.eval: max_questions is for answers, which need a metric"),
        *(
            (
                [f"data.eval=[{{path: a/val.json{metric}}}]", f"training.metric_for_best_model={measure}"],
                f"training.metric_for_best_model: an evaluation gives no '{measure.removeprefix('eval_')}'; {advice}",
            )
            for measure, metric, advice in [
                ("acuracy", ", metric: auto", "did you mean 'accuracy'?"),
                ("eval_vl/accuracy", ", metric: auto", "did you mean 'val/accuracy'?"),
                ("bleu", ", metric: auto", "write loss or accuracy or val/accuracy or val/loss"),
                ("accuracy", "", "accuracy needs answers: add metric: auto to a source"),
                ("val/accuracy", "", "accuracy needs answers: add metric: auto to a source"),
            ]
        ),
        (["data.frame_cache=frames", "data.frame_sampling=jitter"], "data.frame_cache: jitter takes other frames in"),
        (["data.feature_cache=f", "data.frame_sampling=jitter"], "data.feature_cache: jitter takes other frames in"),
        (
            ["data.feature_cache=f", "lora=null", "model.trainable=decoder"],
            "data.feature_cache: the towers are released, and full fine-tuning (lora: null) saves a whole model",
        ),
        (["data.frame_cache_gib=1.5"], "data.frame_cache_gib: is the size of data.frame_cache; add a folder"),
        (["data.max_length=8193"], "data.max_tokens_per_row: a row of 8192 tokens cannot hold"),
        (
            ["training.per_device_train_batch_size=2"],
            "training.per_device_train_batch_size: a packed row is a batch",
        ),
        (
            ["training.eval_strategy=steps"],
            "training.eval_strategy: there is nothing to evaluate on; add data.eval",
        ),
        (
            ["training.load_best_model_at_end=true"],
            "training.load_best_model_at_end: there is nothing to evaluate on",
        ),
        (["early_stopping_patience=2"], "early_stopping_patience: needs training.load_best_model_at_end: true"),
        (["training.eval_on_start=true"], "training.eval_on_start: there is nothing to evaluate on"),
        (
            ["training.remove_unused_columns=true"],
            "training.remove_unused_columns: stays false: the collator needs every column",
        ),
        (
            ["model.projector_learning_rate=2e-5"],
            "model.projector_learning_rate: no projector is trained",
        ),
        (
            ["lora=", "model.trainable=decoder", "model.projector_learning_rate=2e-5"],
            "model.projector_learning_rate: no projector is trained",
        ),
        (
            ["lora.target=decoder+projector", "lora.modules_to_save=[multi_modal_projector]"],
            "lora.modules_to_save: target: decoder+projector adapts the projector already",
        ),
        (
            ["memory=auto", "training.gradient_checkpointing=selective"],
            "memory: auto chooses training.gradient_checkpointing itself; remove one of the two",
        ),
        (
            [
                "training.gradient_checkpointing=selective",
                "training.gradient_checkpointing_kwargs={use_reentrant: true}",
            ],
            "training.gradient_checkpointing: selective needs torch's newer checkpointing; remove use_reentrant",
        ),
        (
            ["training.use_liger_kernel=true", "training.torch_compile=true"],
            "training.use_liger_kernel: compiled layers have kernels of their own",
        ),
        (["resume=no/such/folder"], "resume: no such folder: 'no/such/folder'; write auto, never"),
    ],
)
def test_impossible_combinations(minimal, overrides, said):
    (line,) = problems(minimal, *overrides)
    assert line.startswith(said)


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.quantization=nf4", "lora.use_dora=true", "lora.init_lora_weights=olora"],
        ["model.quantization=int8", "lora.init_lora_weights=pissa_niter_4"],
        ["lora=", "model.trainable=all", "model.projector_learning_rate=2e-5"],
        ["lora.modules_to_save=[multi_modal_projector]", "model.projector_learning_rate=2e-5"],
        ["lora.target=decoder+projector", "model.projector_learning_rate=2e-5"],
        ["lora.target='.*linear_1'", "model.projector_learning_rate=2e-5"],
        ["data.max_length=8192"],
        ["data.max_length=9000", "data.packing=none", "training.per_device_train_batch_size=4"],
        ["training.eval_strategy=epoch", "training.load_best_model_at_end=true", WITH_EVAL],
        *(
            [
                "data.eval=[{path: a/val.json, metric: accept}, {path: b.json}]",
                f"training.metric_for_best_model={measure}",
            ]
            for measure in ("accuracy", "eval_accuracy", "val/accuracy", "b/loss", "loss")
        ),
        ["resume=."],
    ],
)
def test_possible_combinations(minimal, overrides):
    load_recipe(minimal, overrides)


def test_a_combination_with_a_faulty_key_is_not_judged(minimal):
    lines = problems(minimal, "data.max_length=long", "data.max_tokens_per_row=100")
    assert lines == ['data.max_length: must be a whole number, got "long"']
    lines = problems(minimal, "data.eval=[{}]", "training.eval_strategy=epoch", "lora.modules_to_save=[3]")
    assert lines == [
        "lora.modules_to_save[0]: must be text (quote what looks like a number), got 3",
        "data.eval[0].path: is missing; add it",
    ]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["training.bf16=true", "training.fp16=true"], "bf16"),
        (["training.load_best_model_at_end=true", "training.eval_strategy=epoch", WITH_EVAL], "found - Eval"),
    ],
)
def test_transformers_own_refusals_are_one_line(minimal, overrides, said):
    recipe = load_recipe(minimal, ["training.use_cpu=true", *overrides])
    with pytest.raises(UserError) as caught:
        recipe.training_arguments()
    assert str(caught.value).startswith("training: transformers refuses these settings: ")
    assert said in str(caught.value) and "\n" not in str(caught.value)


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
