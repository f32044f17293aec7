"""New tokens: one id each, trained with an adapter or in full, merged, and loaded by transformers alone."""

import json

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import VideoLlavaForConditionalGeneration, VideoLlavaProcessor

from data.errors import SettingError, UserError
from data.tokens.new_tokens import add_new_tokens
from tests.short_run import result, write_recipe
from tests.tiny_data import turns
from train.merging.merge import merge_adapter
from train.model.build import build_config, build_model
from train.model.token_rows import MULTIPLE, give_rows
from train.recipe.load import load_recipe
from train.results.artifact import open_artifact
from train.results.loading import load
from train.sft import main

TOKENS = ["<time>", "<place>"]


@pytest.fixture
def base_of(processor, tmp_path):
    """Return a base whose head is tied or not, with rows to spare or without."""

    def write(tied=False, spare=0):
        config = build_config("tiny", processor.tokenizer)
        config.text_config.num_hidden_layers = 2
        config.text_config.vocab_size += spare
        config.tie_word_embeddings = config.text_config.tie_word_embeddings = tied
        build_model(config).save_pretrained(tmp_path / "base")
        processor.save_pretrained(tmp_path / "base")
        return tmp_path / "base"

    return write


@pytest.fixture
def recipe_on(tmp_path):
    def write(base, model=None, lora=None):
        records = [{"conversations": turns(f"When {n}?", f"at <time>{n}<place>")} for n in range(4)]
        (tmp_path / "t.json").write_text(json.dumps(records))
        training = {"max_steps": 4, "save_steps": 2, "learning_rate": 1e-2, "save_total_limit": 9}
        path = write_recipe(tmp_path, base, tmp_path / "t.json", {}, {}, training)
        recipe = yaml.safe_load(path.read_text())
        recipe["model"] |= {"add_tokens": TOKENS, **(model or {})}
        recipe["lora"] = lora
        path.write_text(yaml.safe_dump(recipe))
        return path

    return write


def logits(model, ids):
    with torch.inference_mode():
        return model.eval()(input_ids=ids).logits.float()


KINDS = {
    "untied": ({}, {}),
    "tied": ({"tied": True}, {}),
    "rows to spare": ({"spare": 64}, {}),
    "4 bits": ({}, {"quantization": "nf4"}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_new_tokens_through_merge_and_a_plain_from_pretrained(kind, base_of, recipe_on, processor, tmp_path):
    shape, model = KINDS[kind]
    base, out = base_of(**shape), tmp_path / "out"
    recipe = recipe_on(base, model, {"r": 4, "alpha": 8, "dropout": 0.1})
    main([str(recipe)])
    unbroken = result(out)

    merge_adapter(str(out), tmp_path / "merged", report=lambda line: None)
    merged = VideoLlavaForConditionalGeneration.from_pretrained(tmp_path / "merged")
    plain = VideoLlavaProcessor.from_pretrained(tmp_path / "merged")
    ids = plain.tokenizer("at <time>7<place> now", return_tensors="pt").input_ids
    new = [len(processor.tokenizer), len(processor.tokenizer) + 1]
    assert [each for each in ids[0].tolist() if each >= new[0]] == new
    adapted, its = load(open_artifact(str(out)))
    assert its.tokenizer.get_vocab() == plain.tokenizer.get_vocab()
    wanted = logits(adapted, ids)
    assert (logits(merged, ids) - wanted).abs().max() <= 1e-4 * wanted.abs().max()
    rows = merged.get_input_embeddings().weight
    assert len(rows) % MULTIPLE == 0 if kind != "rows to spare" else len(rows) == len(processor.tokenizer) + 64
    assert not torch.equal(rows[new[0]], rows[new[1]]), "they began as one and were trained apart"
    assert (merged.lm_head.weight is rows) == (kind == "tied")

    by_hand = VideoLlavaForConditionalGeneration.from_pretrained(base)  # what the card's code does
    by_hand.resize_token_embeddings(max(len(plain.tokenizer), by_hand.get_input_embeddings().num_embeddings))
    found = logits(PeftModel.from_pretrained(by_hand, out), ids)[..., : len(plain.tokenizer)]
    assert (found - wanted[..., : len(plain.tokenizer)]).abs().max() <= 1e-4 * wanted.abs().max()

    (out / "adapter_model.safetensors").unlink()
    (out / "checkpoint-4" / "manifest.json").unlink()  # so that the run continues from the other one
    main([str(recipe)])
    assert result(out) == unbroken


def test_full_fine_tuning_with_new_tokens(base_of, recipe_on, processor, tmp_path):
    """bfloat16 beside trained float32: what is restored is what was saved, to the bit."""
    recipe, out = recipe_on(base_of(), {"trainable": "decoder", "dtype": "bfloat16"}), tmp_path / "out"
    main([str(recipe)])
    unbroken = (out / "model.safetensors").read_bytes()
    model = VideoLlavaForConditionalGeneration.from_pretrained(out)
    tokenizer = VideoLlavaProcessor.from_pretrained(out).tokenizer
    new = tokenizer.convert_tokens_to_ids(TOKENS)
    assert new == [len(processor.tokenizer), len(processor.tokenizer) + 1]
    rows = model.lm_head.weight
    assert not torch.equal(rows[new[0]], rows[new[1]]) and model.config.text_config.vocab_size == len(rows)
    (out / "model.safetensors").unlink()
    (out / "checkpoint-4" / "manifest.json").unlink()
    main([str(recipe)])
    assert (out / "model.safetensors").read_bytes() == unbroken


def test_an_adapter_with_new_tokens_is_trained_on(base_of, recipe_on, tmp_path):
    recipe = recipe_on(base_of(), None, {"r": 4, "alpha": 8, "dropout": 0.0})
    main([str(recipe), "training.save_strategy=no"])
    again = [f"lora={{start_from: {tmp_path / 'out'}}}", f"training.output_dir={tmp_path / 'second'}"]
    main([str(recipe), *again, "model.add_tokens=[]", "training.max_steps=1", "training.learning_rate=1e-9"])
    assert load_recipe(tmp_path / "second" / "recipe.yaml").model.add_tokens == TOKENS
    ids = torch.tensor([[1, 40, 400, 401, 50]])
    first, second = (logits(load(open_artifact(str(tmp_path / name)))[0], ids) for name in ("out", "second"))
    assert (first - second).abs().max() <= 1e-4
    with pytest.raises(UserError, match=r"model.add_tokens: \['<x>'\] contradicts .*out, which has \['<time>', '<pl"):
        main([str(recipe), *again, "model.add_tokens=[<x>]", "--fresh"])


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        ([""], "'' is empty or has a blank in it"),
        (["a b"], "'a b' is empty or has a blank in it"),
        (["<image>"], "'<image>' is a token with a meaning of its own"),
        (["</s>"], "'</s>' is a token with a meaning of its own"),
        (["x<video>"], "'x<video>' has a token with a meaning of its own in it"),
        (["USER"], "'USER' is part of every prompt"),
        (["red"], r"'red' is in the vocabulary already \(id \d+\); remove it"),
        (["<t>", "<t>"], "'<t>' is named twice"),
        (["<t><"], "'<t><' ends as a token with a meaning of its own begins"),
        (["", "</s>"], "'' is empty or has a blank in it; '</s>' is a token with a meaning"),
    ],
)
def test_tokens_that_would_break_something_are_refused(tokens, said, model_folder):
    processor = VideoLlavaProcessor.from_pretrained(model_folder)
    processor.tokenizer.add_tokens(["red"])
    with pytest.raises(SettingError, match=said):
        add_new_tokens(processor, tokens)


def test_combinations_that_cannot_train_the_rows_are_refused(base_of, recipe_on):
    base = base_of()
    with pytest.raises(UserError, match="model.add_tokens: trainable: projector leaves their rows as they are"):
        load_recipe(recipe_on(base, {"trainable": "projector"}))
    with pytest.raises(UserError, match="model.add_tokens: trains the rows of its tokens by themselves; remove lm_he"):
        load_recipe(recipe_on(base, None, {"modules_to_save": ["lm_head"]}))


def test_new_rows_are_the_mean_of_the_others(model):
    before = model.get_input_embeddings().weight.detach().clone()
    give_rows(model, [len(before), len(before) + 1])
    rows = model.get_input_embeddings().weight
    assert torch.equal(rows[: len(before)], before)
    torch.testing.assert_close(rows[len(before)], before.mean(0))
    assert torch.equal(rows[len(before)], rows[len(before) + 1])
