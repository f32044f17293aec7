"""The next batch is on its way while one is computed; errors are raised in their turn."""

import weakref
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import TrainingArguments, set_seed

from data.batches.byte_pixels import as_bytes
from data.batches.collator import RowCollator
from data.batches.pixels import PixelLoader
from data.errors import UserError
from data.packing.dataset import shared_prefix_rows
from data.sources.source import Source
from data.tokens.corpus import load_corpus
from train.loop.ahead import Ahead, SideStream
from train.loop.trainer import RowTrainer
from train.model.adapters import add_adapter
from train.model.load import load_model


class Diary:
    """A way to a device that notes what it is asked to do."""

    def __init__(self):
        self.notes = []

    def send(self, batch):
        self.notes.append(f"send {batch['number']}")
        return {**batch, "is_there": True}

    def arrive(self, batch):
        self.notes.append(f"arrive {batch['number']}")


class Numbering(Diary):
    """A diary of batches that have no number."""

    def send(self, batch):
        self.notes.append("send")
        return batch

    def arrive(self, batch):
        self.notes.append("arrive")


def some_batches(*numbers):
    for number in numbers:
        yield UserError("the clip is gone") if number is None else {"number": number}


def test_one_batch_is_on_its_way_while_one_is_computed():
    diary = Diary()
    ahead, source = Ahead(diary), some_batches(1, 2, 3)
    for number in (1, 2, 3):  # each a step of its own
        batch = next(ahead.of(source))
        assert batch == {"number": number, "is_there": True}
        diary.notes.append(f"compute {number}")
    assert list(ahead.of(source)) == []
    assert diary.notes == [
        *("send 1", "arrive 1", "send 2", "compute 1"),
        *("arrive 2", "send 3", "compute 2"),
        *("arrive 3", "compute 3"),
    ]
    assert [batch["number"] for batch in ahead.of(some_batches(4, 5))] == [4, 5]  # another epoch


def test_an_error_is_raised_in_its_turn():
    ahead, source = Ahead(Diary()), some_batches(1, None, 2)
    assert next(ahead.of(source))["number"] == 1
    with pytest.raises(UserError, match="the clip is gone"):
        next(ahead.of(source))


def test_without_a_gpu_nothing_is_taken_before_it_is_asked_for():
    source = some_batches(1, 2, None)
    assert next(Ahead(None).of(source)) == {"number": 1}
    assert next(source) == {"number": 2}
    with pytest.raises(UserError, match="the clip is gone"):
        next(Ahead(None).of(source))


def test_the_loader_is_let_go_when_training_ends():
    nothing: Any = None
    ahead, source = Ahead(Diary()), some_batches(1, 2, 3)
    next(ahead.of(source))
    is_held = weakref.ref(source)
    del source
    assert is_held() is not None
    ahead.on_train_end(nothing, nothing, nothing)
    assert is_held() is None


def test_training_is_the_same_whether_batches_are_sent_ahead(
    model_folder, processor, visual_tokens, mixed_file, tmp_path
):
    """Two epochs, whose last step has fewer rows than the others: the trainer asks for more than there are."""
    samples = load_corpus([Source(mixed_file)], processor.tokenizer, visual_tokens, 512).samples
    rows = shared_prefix_rows(samples, processor.tokenizer, visual_tokens, 4, 512, seed=0)
    assert len(rows) % 2

    def train(lane: Diary | None) -> dict[str, torch.Tensor]:
        set_seed(0)
        model = add_adapter(load_model(str(model_folder)), r=2, alpha=4, dropout=0.1)
        args = TrainingArguments(str(tmp_path), use_cpu=True, disable_tqdm=True, num_train_epochs=2, save_strategy="no",
                                 per_device_train_batch_size=1, remove_unused_columns=False,
                                 report_to="none")  # fmt: skip
        collate = RowCollator(processor, visual_tokens, load_pixels=as_bytes(PixelLoader(processor, 8)))
        trainer = RowTrainer(model=model, args=args, train_dataset=rows, data_collator=collate, rows_per_step=2,
                             processing_class=processor)  # fmt: skip
        trainer._ahead.lane = lane
        trainer.train()
        assert trainer.state.global_step == len(rows) + 1
        return {name: value for name, value in model.state_dict().items() if "lora" in name}

    diary = Numbering()
    ahead, plain = train(diary), train(None)
    assert diary.notes.count("send") == diary.notes.count("arrive") == 2 * len(rows)
    assert diary.notes[:3] == ["send", "arrive", "send"]
    assert ahead.keys() == plain.keys() and all(torch.equal(ahead[name], value) for name, value in plain.items())


@pytest.mark.gpu
def test_batches_that_were_copied_meanwhile_are_whole():
    device = torch.device("cuda")
    ahead = Ahead(SideStream(device))
    loader = DataLoader(
        range(20), batch_size=None, pin_memory=True, collate_fn=lambda number: {"values": torch.full((2**22,), number)}
    )
    source, product = iter(loader), torch.rand(4096, 4096, device=device)
    for number in range(20):
        batch = next(ahead.of(source))
        assert batch["values"].is_cuda
        product = product @ product / product.norm()  # keeps the computing stream busy
        assert (batch["values"] == number).all()
