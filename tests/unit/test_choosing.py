"""Tokens are chosen whatever temperature is asked for."""

from types import SimpleNamespace

import pytest
import torch
from transformers import GenerationConfig

from train.answering.choosing import Chooser


@pytest.mark.parametrize("temperature", [1e-300, 1e-40, 1e-9, 1e-4])
def test_the_coldest_draw_is_the_likeliest_word(temperature):
    choose = Chooser(GenerationConfig(do_sample=True, temperature=temperature, top_k=0))
    answer = SimpleNamespace(random=torch.Generator().manual_seed(0))
    assert choose(torch.tensor([[-80.0, 3.0, 2.5], [0.0, -1.0, 0.5]]), [answer, answer]) == [1, 2]
