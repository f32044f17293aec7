"""Settings that do not go together, and those that do."""

import pytest

from data.errors import UserError
from tests.recipe_lines import problems
from train.recipe.load import load_recipe

WITH_EVAL = "data.eval=[{path: val.json}]"
STREAMED = "data.streaming=true"


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
            ["training.gradient_checkpointing_kwargs={preserve_rng_state: false}"],
            "training.gradient_checkpointing_kwargs: without preserve_rng_state layers that are computed again draw",
        ),
        (
            ["training.use_liger_kernel=true", "training.torch_compile=true"],
            "training.use_liger_kernel: compiled layers have kernels of their own",
        ),
        (["resume=no/such/folder"], "resume: no such folder: 'no/such/folder'; write auto, never"),
        (["resume=~nobody-has-this-name/run"], "resume: no such folder: '~nobody-has-this-name/run'"),
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
