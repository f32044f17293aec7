"""Agreement between the processes of a run: what one of them finds out, all of them act on."""

import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

from data.errors import UserError, with_way_out
from data.files import is_disk_problem

T = TypeVar("T")


def on_first_rank(function: Callable[..., T], *args: Any) -> T:
    """Run `function` on the first rank, and return its result, or raise its UserError, on every rank. ALL RANKS."""
    outcome: list = [None, None]
    if PartialState().is_main_process:
        try:
            outcome[0] = function(*args)
        except UserError as error:
            outcome[1] = error
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def all_or_none(function: Callable[..., Any], *args: Any) -> str | None:
    """Run `function` on all ranks. ALL RANKS.

    Returns None, or the first disk problem that one of them had, in one line. Raises RuntimeError with the traceback of
    any other error.
    """
    problem = bug = None
    try:
        function(*args)
    except Exception as error:
        if is_disk_problem(error):
            problem = with_way_out(error)
        else:
            bug = traceback.format_exc()
    problems, bugs = zip(*gather_object([(problem, bug)]), strict=True)
    if any(bugs):
        raise RuntimeError(next(filter(None, bugs)))
    return next(filter(None, problems), None)


def any_rank(flag: bool) -> bool:
    """Tell whether the flag is up on one of the ranks. ALL RANKS."""
    return bool(largest(flag)[0])


def largest(*values: int) -> list[int]:
    """Return the largest of each value over the ranks. ALL RANKS."""
    if not dist.is_initialized():
        return list(values)
    device = PartialState().device if dist.get_backend() == "nccl" else torch.device("cpu")
    found = torch.tensor([int(value) for value in values], device=device)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return found.tolist()


def none_or_all(function: Callable[..., Any], *args: Any) -> None:
    """Run `function` on all ranks, and raise the first UserError of one of them on every rank. ALL RANKS."""
    problem = None
    try:
        function(*args)
    except UserError as error:
        problem = error
    if problem := next(filter(None, gather_object([problem])), None):
        raise problem


def on_all(function: Callable[..., T], *args: Any) -> T:
    """Return what `function` returns on this rank, unless it raises a UserError on one: then on every. ALL RANKS."""
    if not dist.is_initialized():
        return function(*args)
    found: list[T] = []
    none_or_all(lambda: found.append(function(*args)))
    return found[0]


def same_on_all(value: str, problem: str) -> None:
    """Raise UserError with the problem where ranks have different values. ALL RANKS."""
    if len(set(gather_object([value]))) > 1:
        raise UserError(problem)
