"""The line about memory before a run: what cannot be estimated is said, and a mistake of ours is not hidden."""

from types import SimpleNamespace

import pytest

from data.errors import UserError
from train.estimating import foresight


@pytest.mark.parametrize(
    ("problem", "is_said"),
    [
        (UserError("no such layer"), True),
        (RuntimeError("needs numbers"), True),
        (NotImplementedError("aten::nonzero"), True),
        (AttributeError("a bug"), False),
        (TypeError("a bug"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_estimated_is_said_and_a_bug_is_raised(problem, is_said, monkeypatch):
    def fail(*_):
        raise problem

    monkeypatch.setattr(foresight, "largest_rows", fail)
    recipe = SimpleNamespace(data=SimpleNamespace(streaming=False))
    if is_said:
        assert foresight.foreseen(recipe, None, None, None, None) == f"memory: not estimated: {problem}"
    else:
        with pytest.raises(type(problem)):
            foresight.foreseen(recipe, None, None, None, None)
