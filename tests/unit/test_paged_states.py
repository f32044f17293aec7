"""States of a paged optimizer after a resume: bitsandbytes loads them as ordinary tensors."""

import copy

import pytest
import torch
from bitsandbytes.optim import AdamW8bit, PagedAdamW8bit
from bitsandbytes.optim.optimizer import Optimizer8bit
from torch import nn

from train.loop.optimizer import page_states

LARGE = 512 * 256  # numbers: bitsandbytes pages states of 100,000 and more


def trained(device: str) -> tuple[nn.Module, PagedAdamW8bit]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 512), nn.Linear(512, 8)).to(device)
    optimizer = PagedAdamW8bit(model.parameters(), lr=1e-2)
    step(model, optimizer)
    return model, optimizer


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    inputs = torch.linspace(-1, 1, 256, device=next(model.parameters()).device).expand(4, -1)
    model(inputs).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def resumed(model: nn.Module, optimizer: PagedAdamW8bit) -> tuple[nn.Module, PagedAdamW8bit]:
    again = copy.deepcopy(model)
    loaded = PagedAdamW8bit(again.parameters(), lr=1e-2)
    loaded.load_state_dict(optimizer.state_dict())
    return again, loaded


def states(optimizer: Optimizer8bit) -> list[torch.Tensor]:
    return [state for each in optimizer.state.values() for state in (each["state1"], each["state2"])]


def paged(optimizer: Optimizer8bit) -> list[bool]:
    return [getattr(state, "is_paged", False) for state in states(optimizer)]


def test_large_states_are_paged_again_with_their_values(monkeypatch):
    """A CPU has no paged memory: here a tensor that says it is stands for it, as on a GPU bitsandbytes gives one."""

    def buffer(self, parameter, dtype=torch.float32):
        made = torch.zeros_like(parameter, dtype=dtype)
        made.is_paged = self.is_paged and parameter.numel() >= 1e5
        return made

    model, optimizer = trained("cpu")
    monkeypatch.setattr(Optimizer8bit, "get_state_buffer", buffer)
    again, loaded = resumed(model, optimizer)
    before = [state.clone() for state in states(loaded)]
    assert not any(paged(loaded)) and page_states(loaded) == 2
    assert paged(loaded) == [state.numel() == LARGE for state in before]
    assert all(map(torch.equal, states(loaded), before))
    assert page_states(loaded) == 0, "they are there"


def test_other_optimizers_are_left_alone():
    model = nn.Linear(512, 256)
    for kind in (torch.optim.AdamW, AdamW8bit):
        optimizer = kind(model.parameters())
        model(torch.ones(1, 512)).sum().backward()
        optimizer.step()
        assert page_states(optimizer) == 0
    assert page_states(trained("cpu")[1]) == 0, "a CPU has no paged memory"


@pytest.mark.gpu
def test_a_resumed_step_is_that_of_an_unbroken_run():
    model, optimizer = trained("cuda")
    again, loaded = resumed(model, optimizer)
    assert any(paged(optimizer)) and not any(paged(loaded))
    assert page_states(loaded) == 2 and paged(loaded) == paged(optimizer)
    for each in ((model, optimizer), (again, loaded)):
        step(*each)
    assert all(map(torch.equal, model.parameters(), again.parameters()))
