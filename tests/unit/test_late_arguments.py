"""Everything that would fail when training begins fails when the recipe is read, in one line with its key."""

import json

import pytest

from data.errors import UserError
from train.loop.rows import num_steps_of
from train.recipe.late_arguments import refuse_endless_warm_up
from train.recipe.load import load_recipe
from train.recipe.training_keys import FIXED, TRAINING_KEYS

DEVICE = ["training.use_cpu=true", "model.dtype=float32"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["training.report_to=wandb"], "training.report_to: cannot report to wandb: WandbCallback requires wandb"),
        (
            ["training.report_to=[tensorbord]"],
            "training.report_to: cannot report to tensorbord: tensorbord is not",
        ),
        (["training.lr_scheduler_type=cosine_with_min_lr"], "training.lr_scheduler_type: cosine_with_min_lr cannot be"),
        (["training.lr_scheduler_type=warmup_stable_decay"], "training.lr_scheduler_type: warmup_stable_decay cannot"),
        (["training.lr_scheduler_kwargs={bad: 1}"], "training.lr_scheduler_type: linear cannot be made with"),
        (["training.optim=adamw_bnb_8bit", "training.adam_beta1=1.5"], "training.optim: cannot make adamw_bnb_8bit"),
        (
            ["training.torch_compile=true", "training.torch_compile_backend=nonsense"],
            "training.torch_compile_backend: torch cannot compile with it: Invalid backend: 'nonsense'",
        ),
        (
            ["training.torch_compile=true", "training.torch_compile_mode=nonsense"],
            "training.torch_compile_mode: torch cannot compile with it: Unrecognized mode=nonsense",
        ),
        (
            ["training.gradient_checkpointing_kwargs={nonsense: 1}"],
            "training.gradient_checkpointing_kwargs: torch refuses {'nonsense': 1}: ",
        ),
        (
            ["training.max_steps=10", "training.warmup_steps=10"],
            "training.warmup_steps: 10 is no less than the whole run, 10 steps: the learning rate would never be",
        ),
        (
            ["training.max_steps=1", "training.warmup_steps=0.03"],
            "training.warmup_steps: 0.03 (1 step) is no less than the whole run, 1 step:",
        ),
        (["training.optim=grokadamw"], "training.optim: cannot make grokadamw: Please install grokadamw"),
    ],
)
def test_what_fails_late_is_told_early(overrides, said, minimal):
    with pytest.raises(UserError) as caught:
        load_recipe(minimal, [*DEVICE, *overrides]).training_arguments()
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["training.lr_scheduler_type=cosine_with_min_lr", "training.lr_scheduler_kwargs={min_lr: 1.0e-6}"],
        ["training.optim=paged_adamw_8bit"],
        ["training.optim=galore_adamw", "training.optim_target_modules=[mlp]"],
        ["training.report_to=none"],
        ["training.max_steps=10", "training.warmup_steps=9"],
        ["training.max_steps=10", "training.warmup_steps=10", "training.lr_scheduler_type=constant"],
        ["training.warmup_steps=10"],
    ],
)
def test_what_works_is_let_through(overrides, minimal):
    try:
        load_recipe(minimal, [*DEVICE, *overrides]).training_arguments()
    except UserError as error:
        assert "galore" in str(error) and "install" in str(error)  # the package is an option


def refused(minimal, *overrides) -> list[str]:
    with pytest.raises(UserError) as caught:
        load_recipe(minimal, list(overrides))
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("seed", value) for value in (-1, 2**32)),
        *(
            (key, -1)
            for key in (
                "dataloader_num_workers",
                "neftune_noise_alpha",
                "max_grad_norm",
                "weight_decay",
                "logging_steps",
            )
        ),
        *((key, 0) for key in ("eval_steps", "save_steps", "ddp_timeout", "ddp_bucket_cap_mb")),
        *((key, "nonsense") for key in ("log_level", "log_level_replica")),
        *(("per_device_train_batch_size", 0), ("per_device_eval_batch_size", 0)),
    ],
)
def test_values_that_no_loader_or_seed_takes(key, value, minimal):
    (line,) = refused(minimal, f"training.{key}={value}")
    assert line.startswith(f"command line: training.{key}: must be") and line.endswith(
        f"got {json.dumps(value)}" if isinstance(value, str) else f"got {value}"
    )


def test_the_best_checkpoint_needs_evaluations(minimal):
    (line,) = refused(minimal, "training.save_strategy=best")
    assert "write training.eval_strategy and training.metric_for_best_model, or save_strategy: steps" in line


OTHER = {True: "false", False: "true", None: "1", "random": "sequential"}
BY_NAME = {"accelerator_config": "{split_batches: true}", "label_names": "[labels]", "include_for_metrics": "[loss]"}
TEXTS = ("hub_model_id", "hub_revision", "dataloader_multiprocessing_context")


@pytest.mark.parametrize("key", [key for key in FIXED if key in TRAINING_KEYS])
def test_keys_that_switch_a_guarantee_off_are_refused(key, minimal):
    value, reason = FIXED[key]
    other = "spawn" if key in TEXTS else BY_NAME.get(key) or OTHER[value]
    other = "true" if key == "hub_private_repo" else other
    (line,) = refused(minimal, f"training.{key}={other}")
    assert line.startswith(f"command line: training.{key}: ") and line.endswith(reason)


@pytest.mark.parametrize("key", [key for key in FIXED if key in TRAINING_KEYS and FIXED[key][0] not in (None, [])])
def test_the_value_that_a_guarantee_needs_may_be_written(key, minimal):
    value = FIXED[key][0]
    load_recipe(minimal, [f"training.{key}={str(value).lower()}"])


def test_a_metric_that_no_evaluation_gives_is_refused(minimal):
    evaluated = ["data.eval=[{path: a.json}]", "training.eval_strategy=steps", "training.load_best_model_at_end=true"]
    (line,) = refused(minimal, *evaluated, "training.metric_for_best_model=nonsense")
    assert line == (
        "command line: training.metric_for_best_model: an evaluation gives no 'nonsense'; write loss, or remove it"
    )
    for metric in ("loss", "eval_loss"):
        load_recipe(minimal, [*evaluated, f"training.metric_for_best_model={metric}"])


@pytest.mark.parametrize("override", ["training.deepspeed={}", "training.fsdp=full_shard", "training.fsdp_config={}"])
def test_hardware_is_the_accelerate_config_s(override, minimal):
    (line,) = refused(minimal, override)
    assert "belongs to the accelerate config file: see accelerate_configs/" in line


def test_settings_of_recomputation_that_say_nothing_of_it_mean_torch_s_newer_checkpointing(minimal):
    """Otherwise torch takes its older one for those who give any, and the newer for those who give none."""
    given = "training.gradient_checkpointing_kwargs={early_stop: true}"
    args = load_recipe(minimal, ["training.gradient_checkpointing=true", given]).training_arguments()
    assert args.gradient_checkpointing_kwargs == {"use_reentrant": False, "early_stop": True}
    older = "training.gradient_checkpointing_kwargs={use_reentrant: true}"
    assert load_recipe(minimal, [older]).training_arguments().gradient_checkpointing_kwargs == {"use_reentrant": True}


def test_the_steps_of_epochs_are_known_when_the_rows_are(minimal):
    recipe = load_recipe(minimal, [*DEVICE, "training.warmup_steps=8", "training.num_train_epochs=1.5"])
    args = recipe.training_arguments()
    assert num_steps_of(args, range(17), rows_per_step=4) == 8  # 5 steps an epoch, 7.5 in all
    with pytest.raises(UserError, match="warmup_steps: 8 is no less than the whole run, 8 steps"):
        refuse_endless_warm_up(args, 8)
    refuse_endless_warm_up(args, 9)
