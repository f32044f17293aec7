"""Two processes answer what one answers, whatever their weights are spread over, and neither waits for ever."""

import random
import signal

import pytest
import torch
import yaml
from torch import nn

from data.decoding.decode import decode
from data.errors import MediaError, UserError
from data.media.bad_media import BadMedia
from data.processor import set_up_processor
from tests.distributed.forked import in_two
from tests.distributed.sharded import spread
from tests.invariant.test_shared_answers import opinionated, random_prompt, with_ends
from tests.launching import ROOT
from tests.tiny_adapters import random_adapter
from train.answering import exchange as exchanging
from train.answering.exchange import Stopped
from train.answering.generation import answer, answer_together
from train.model.empty_towers import accept_empty_batches

SETTINGS = {"num_frames": 2, "max_new_tokens": 3, "batch_size": 2}
NEVER = 1000.0


@pytest.fixture(scope="module")
def processor(smallest_folder):
    return set_up_processor(str(smallest_folder), num_frames=2)[0]


@pytest.fixture(scope="module")
def adapted(smallest_folder, processor):
    model = random_adapter(smallest_folder).eval()
    opinionated(model.get_base_model())
    accept_empty_batches(model)
    model.get_base_model().generation_config = with_ends(processor.tokenizer)
    return model


@pytest.fixture(scope="module")
def prompts(media_folder):
    chance = random.Random(3)
    return [random_prompt(chance, media_folder) for _ in range(10)]


@pytest.fixture(scope="module")
def expected(adapted, processor, prompts):
    return dict(enumerate(answer(adapted, processor, prompts, **SETTINGS)))


def spread_by_fsdp2(model: nn.Module) -> nn.Module:
    settings = yaml.safe_load((ROOT / "accelerate_configs/fsdp2.yaml").read_text())["fsdp_config"]
    assert len(spread(model, settings["fsdp_transformer_layer_cls_to_wrap"].split(","))) > 4
    return model


def spread_by_deepspeed(model: nn.Module, stage: int) -> nn.Module:
    import deepspeed

    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 100},
    }
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return deepspeed.initialize(model=model, optimizer=torch.optim.SGD(trained, lr=0.0), config=config)[0]


def train_a_step(engine: nn.Module) -> float:
    ids = torch.arange(300, 320)[None]
    loss = engine(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.square().mean()
    engine.backward(loss) if hasattr(engine, "backward") else loss.backward()
    if hasattr(engine, "step"):
        engine.step()
    return loss.item()


@pytest.mark.parametrize("way", ["ddp", "zero2", "zero3", "fsdp2"])
def test_two_processes_answer_what_one_does(way, adapted, processor, prompts, expected):
    """Trained before and after, because what is gathered for answers stays for training."""

    def work(rank):
        engine = adapted
        if way == "fsdp2":
            engine = spread_by_fsdp2(adapted)
        elif way != "ddp":
            engine = spread_by_deepspeed(adapted, int(way[-1]))
        before, taken = train_a_step(engine), []
        model = getattr(engine, "module", engine)
        said = answer_together(
            model, processor, prompts, synced=way in ("zero3", "fsdp2"), take=taken.append, **SETTINGS
        )
        return said, {number: words for some in taken for number, words in some.items()}, before, train_a_step(engine)

    for said, taken, before, after in in_two(work):
        assert said == taken == expected and before == after


def test_a_file_that_one_process_cannot_decode_costs_its_questions_alone(adapted, processor, prompts, expected):
    def cannot_decode_clips(item, num_frames):
        if item.kind == "video":
            raise MediaError(f"cannot decode {item.path}")
        return decode(item, num_frames)

    def work(rank):
        return answer_together(adapted, processor, prompts, decode=cannot_decode_clips, **SETTINGS)

    with_clips = {number for number, (_, media) in enumerate(prompts) if any(item.kind == "video" for item in media)}
    assert 0 < len(with_clips) < len(prompts)
    for said in in_two(work):
        assert {number for number, words in said.items() if isinstance(words, BadMedia)} == with_clips
        assert {number: words for number, words in said.items() if number not in with_clips} == {
            number: words for number, words in expected.items() if number not in with_clips
        }


@pytest.mark.parametrize("synced", [False, True])
@pytest.mark.parametrize("error", [UserError("no room"), ValueError("a bug")], ids=["of the user", "bug"])
def test_an_error_of_one_process_ends_both(synced, error, adapted, processor, prompts, monkeypatch):
    """The first rank keeps the answers; the second one decodes."""
    monkeypatch.setattr(exchanging, "EXCHANGE_SECONDS", 0.05)

    def raise_on(rank, wanted, *args):
        if rank == wanted:
            raise error

    def work(rank, failing, in_take):
        settings = {
            "take": lambda found: raise_on(rank, failing, found) if in_take else None,
            "decode": lambda item, number: (not in_take and raise_on(rank, failing)) or decode(item, number),
        }
        try:
            answer_together(adapted, processor, prompts, synced=synced, **settings, **SETTINGS)
        except Exception as raised:
            return type(raised).__name__, str(raised)

    for failing, in_take in ((0, True), (1, False)):
        found = in_two(work, failing, in_take)
        assert found[failing] == (type(error).__name__, str(error))
        other = found[1 - failing]
        assert str(error) in other[1]
        assert other[0] == ("UserError" if isinstance(error, UserError) else "RuntimeError")


@pytest.mark.parametrize("synced", [False, True])
def test_a_signal_to_one_process_stops_both(synced, adapted, processor, prompts, monkeypatch):
    monkeypatch.setattr(exchanging, "EXCHANGE_SECONDS", 0.05)

    def work(rank):
        kept = {}
        stop = lambda: int(signal.SIGTERM) if rank == 1 and kept else 0  # noqa: E731
        try:
            answer_together(adapted, processor, prompts, synced=synced, stop=stop, take=kept.update, **SETTINGS)
        except Stopped as stopped:
            return stopped.signal, kept

    first, second = in_two(work)
    assert first == second and first[0] == signal.SIGTERM
    assert 0 < len(first[1]) <= len(prompts)


def test_a_signal_and_an_error_at_once_end_both(adapted, processor, prompts, monkeypatch):
    """The first rank cannot keep the answers that both exchange because the second one was stopped."""
    monkeypatch.setattr(exchanging, "EXCHANGE_SECONDS", NEVER)

    def take(rank, found):
        if rank == 0:
            raise UserError("no room")

    def work(rank):
        settings = {"take": lambda found: take(rank, found), "stop": lambda: int(signal.SIGTERM) * rank}
        try:
            answer_together(adapted, processor, prompts, **settings, **SETTINGS)
        except (Stopped, UserError) as raised:
            return str(raised)

    assert in_two(work) == ["no room", "no room"]


def test_one_process_stops_at_the_next_pass(adapted, processor, prompts):
    passes = []
    hook = adapted.register_forward_pre_hook(lambda *_: passes.append(1))
    with pytest.raises(Stopped):
        answer(adapted, processor, prompts, stop=lambda: int(signal.SIGINT) if len(passes) == 3 else 0, **SETTINGS)
    hook.remove()
    assert len(passes) == 3
