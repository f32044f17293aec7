"""A rank without pictures, or without a row at all, runs what the others run and adds nothing."""

import copy

import pytest
import torch

from data.batches.collator import PaddedCollator, RowCollator
from data.packing.dataset import single_sample_rows
from data.sources.source import Source
from data.tokens.corpus import load_corpus
from data.video_llava import PROJECTOR, TOWERS, image_key, is_used
from train.loop.loss import labelled_positions, token_loss
from train.model.empty_towers import accept_empty_batches
from train.model.load import load_model

KINDS = ("image", "video")


def loss_of(model, batch):
    inputs = {name: value for name, value in batch.items() if name != "counts"}
    positions, targets = labelled_positions(inputs.pop("labels"))
    return token_loss(model(**inputs, logits_to_keep=positions).logits, targets, 7)


@pytest.mark.parametrize("collator", [RowCollator, PaddedCollator])
def test_an_empty_batch_is_a_zero_with_zero_gradients_everywhere(collator, model_folder, processor, visual_tokens):
    model = load_model(str(model_folder)).requires_grad_()  # with the attention of packed rows
    accept_empty_batches(model)
    batch = collator(processor, visual_tokens, KINDS)([])
    assert batch["counts"] == {"questions": 0, "clips": 0, "pictures": 0}
    assert batch[image_key()].shape == (0, 3, 56, 56) and batch["pixel_values_videos"].shape == (0, 8, 3, 56, 56)
    loss = loss_of(model, batch)
    loss.backward()
    assert loss.item() == 0
    for name, parameter in model.named_parameters():
        if is_used(name, model.config):
            assert parameter.grad is not None and not parameter.grad.any(), name
        else:  # the last of three layers: features are those of the last but one
            assert parameter.grad is None and (".layers.2." in name or "post_layernorm" in name)


@pytest.mark.parametrize("number", [0, 12, 15])  # a clip, a picture, text alone
def test_towers_without_input_change_nothing(number, model, processor, visual_tokens, mixed_file):
    samples = load_corpus([Source(mixed_file)], processor.tokenizer, visual_tokens, 512).samples
    row = single_sample_rows(samples, visual_tokens, seed=0)[[number]]
    patient = copy.deepcopy(model)
    accept_empty_batches(patient)
    runs = {tower: 0 for tower in TOWERS}
    for tower in TOWERS:
        patient.get_submodule(f"model.{tower}").register_forward_hook(
            lambda *_, tower=tower: runs.update({tower: runs[tower] + 1})
        )
    ours, theirs = (
        loss_of(which, PaddedCollator(processor, visual_tokens, kinds)([row]))
        for which, kinds in ((patient, KINDS), (model, ()))
    )
    assert torch.equal(ours, theirs) and set(runs.values()) == {1}
    ours.backward()
    theirs.backward()
    for (name, own), other in zip(patient.named_parameters(), model.parameters(), strict=True):
        if other.grad is not None:
            assert torch.equal(own.grad, other.grad), name
        elif PROJECTOR in name:
            assert not own.grad.any()
