"""Arguments that transformers looks at when training begins, tried out before anything is loaded."""

from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks
from transformers.optimization import get_scheduler
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from data.errors import UserError, one_line

NUM_STEPS = 100  # of the schedule that is tried; any number does
REFUSALS = (ImportError, RuntimeError, ValueError, TypeError, KeyError, AttributeError, AssertionError)


def try_late_arguments(args: TrainingArguments) -> None:
    """Make optimizer, schedule and reports for a parameter that nobody needs.

    Raises UserError with the key of what would fail after the weights are loaded: a package that is not installed, a
    name that does not exist, a setting that is missing.
    """
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
    for name in args.report_to or ():
        try:
            for callback in get_reporting_integration_callbacks([name]):
                callback()
        except REFUSALS as problem:
            raise UserError(f"training.report_to: cannot report to {name}: {one_line(problem)}") from problem


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
