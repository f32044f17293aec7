"""Arguments that transformers looks at when training begins, tried out before anything is loaded."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import Trainer, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks
from transformers.optimization import get_scheduler
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from data.errors import UserError, many, one_line

NUM_STEPS = 100  # of the schedule that is tried; any number does
# Schedules that begin at the full rate, whatever warmup_steps says.
WITHOUT_WARM_UP = (SchedulerType.CONSTANT, SchedulerType.REDUCE_ON_PLATEAU)
REFUSALS = (ImportError, RuntimeError, ValueError, TypeError, KeyError, AttributeError, AssertionError)


def try_late_arguments(args: TrainingArguments) -> None:
    """Make optimizer, schedule and reports for a parameter that nobody needs.

    Raises UserError with the key of what would fail after the weights are loaded: a package that is not installed, a
    name that does not exist, a setting that is missing.
    """
    recomputation: Any = args.gradient_checkpointing_kwargs  # a mapping by now, as the one below
    _try_recomputation(recomputation)
    if args.torch_compile:
        _try_compiler(args.torch_compile_backend or "inductor", args.torch_compile_mode)
    optimizer = _try_optimizer(args)
    schedule, given = SchedulerType(args.lr_scheduler_type), args.lr_scheduler_kwargs
    kwargs: Any = given  # a mapping by now, although it may be JSON in a command line of transformers
    try:
        get_scheduler(
            schedule,
            optimizer=optimizer,
            num_warmup_steps=args.get_warmup_steps(NUM_STEPS),
            num_training_steps=NUM_STEPS,
            scheduler_specific_kwargs=kwargs,
        )
    except REFUSALS as problem:
        raise UserError(
            f"training.lr_scheduler_type: {schedule.value} cannot be made with lr_scheduler_kwargs {given}: "
            f"{one_line(problem)}"
        ) from problem
    refuse_endless_warm_up(args, args.max_steps)
    for name in args.report_to or ():
        try:
            for callback in get_reporting_integration_callbacks([name]):
                callback()
        except REFUSALS as problem:
            raise UserError(f"training.report_to: cannot report to {name}: {one_line(problem)}") from problem


def refuse_endless_warm_up(args: TrainingArguments, num_steps: int) -> None:
    """Raise UserError where the learning rate, which begins at 0, would not reach its value in so many steps."""
    warm_up = args.get_warmup_steps(num_steps)
    if SchedulerType(args.lr_scheduler_type) not in WITHOUT_WARM_UP and 0 < num_steps <= warm_up:
        share = f" ({many(warm_up, 'step')})" if args.warmup_steps < 1 else ""
        raise UserError(
            f"training.warmup_steps: {args.warmup_steps:g}{share} is no less than the whole run, "
            f"{many(num_steps, 'step')}: the learning rate would never be "
            "reached; lower it, 0 is no warm-up, or train longer"
        )


def _try_recomputation(settings: Mapping[str, Any] | None) -> None:
    """Recompute a function of one number with the settings that the layers get."""
    kwargs: dict[str, Any] = {"use_reentrant": False, **(settings or {})}
    try:
        checkpoint(torch.neg, torch.zeros(1), **kwargs)
    except REFUSALS as problem:
        said = {name: value for name, value in (settings or {}).items() if (name, value) != ("use_reentrant", False)}
        raise UserError(
            f"training.gradient_checkpointing_kwargs: torch refuses {said}: {one_line(problem)}"
        ) from problem


def _try_compiler(backend: str, mode: str | None) -> None:
    try:
        torch.compile(torch.neg, backend=backend, mode=mode)
    except REFUSALS as problem:
        key = "torch_compile_mode" if "mode" in str(problem) else "torch_compile_backend"
        raise UserError(f"training.{key}: torch cannot compile with it: {one_line(problem)}") from problem


def _try_optimizer(args: TrainingArguments) -> torch.optim.Optimizer:
    """Make the optimizer, or SGD in place of one that only a whole model shows to be possible."""
    parameters = [nn.Parameter(torch.zeros(1))]
    try:
        optimizer_class, settings = Trainer.get_optimizer_cls_and_kwargs(args)
        return optimizer_class(parameters, **settings)
    except REFUSALS as problem:
        if "need to pass a model" in str(problem):  # GaLore, APOLLO and LOMO
            return torch.optim.SGD(parameters, lr=args.learning_rate)
        raise UserError(
            f"training.optim: cannot make {OptimizerNames(args.optim).value}: {one_line(problem)}"
        ) from problem
