"""A model of parts through both stages of its recipes: projector, then LoRA; checked, cached, merged and asked."""

import json
from pathlib import Path

import pytest
import torch
from peft.tuners.lora import LoraLayer
from transformers import VideoLlavaForConditionalGeneration, VideoLlavaProcessor

from data.decoding.decode import decode
from data.media.reference import Media
from tests.tiny_data import MIXED_RECORDS
from tests.tiny_parts import write_decoder, write_tower
from train.answering.generation import answer
from train.jobs.new_model import make_model
from train.merging.merge import merge_adapter
from train.results.artifact import open_artifact
from train.results.loading import load
from train.sft import main

RECIPES = Path(__file__).parents[2] / "recipes"
TINY = (
    *("model.dtype=float32", "data.num_frames=4", "data.max_length=512", "data.rows_per_step=2"),
    *("training.max_steps=3", "training.save_steps=3", "training.learning_rate=1e-2", "training.report_to=none"),
    *("training.dataloader_num_workers=0", "training.disable_tqdm=true"),
)
ASKED = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What colour is the shape?"}]}]


@pytest.mark.parametrize(("tower", "decoder"), [("dinov2", "qwen2"), ("siglip", "mistral")])
def test_both_stages(tower, decoder, media_folder, tmp_path):
    data = tmp_path / "train.json"
    data.write_text(json.dumps(MIXED_RECORDS))
    made, first, second, merged = (tmp_path / name for name in ("made", "first", "second", "merged"))
    parts = write_tower(tmp_path / "tower", tower), write_decoder(tmp_path / "decoder", decoder)
    make_model(made, None, *map(str, parts), "float32", 0)
    common = (f"data.train=[{{path: {data}, media_root: {media_folder}}}]", *TINY)
    caches = [f"data.feature_cache={tmp_path / 'features'}", f"data.frame_cache={tmp_path / 'frames'}"]

    files = [f"model.name_or_path={made}", f"training.output_dir={first}"]
    main([str(RECIPES / "new_model_projector.yaml"), *common, *files, "training.per_device_train_batch_size=2"])
    before, after = weights_of(made), weights_of(first)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "multi_modal_projector" in name}

    files = [f"model.name_or_path={first}", f"training.output_dir={second}", "data.max_tokens_per_row=512"]
    main([str(RECIPES / "new_model_lora.yaml"), *common, *files, *caches])
    adapted, processor = load(open_artifact(str(second)))  # compares with what training noted
    layers = [name for name, module in adapted.named_modules() if isinstance(module, LoraLayer)]
    assert len(layers) == 2 * 7 and all(".language_model.layers." in name for name in layers)

    clip = Media("video", str(media_folder / "clip0.mp4"))
    (wanted,) = answer(adapted, processor, [(ASKED, [clip])], num_frames=4, max_new_tokens=6)
    merge_adapter(str(second), merged, report=lambda line: None)
    plain, theirs = (each.from_pretrained(merged) for each in (VideoLlavaForConditionalGeneration, VideoLlavaProcessor))
    prompt = theirs.apply_chat_template(ASKED, add_generation_prompt=True)
    inputs = theirs(text=prompt, videos=[decode(clip, 4)], do_sample_frames=False, return_tensors="pt")
    ids = plain.generate(**inputs, max_new_tokens=6)[0, inputs["input_ids"].shape[1] :]
    assert theirs.decode(ids, skip_special_tokens=True).strip() == wanted and wanted


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return VideoLlavaForConditionalGeneration.from_pretrained(folder).state_dict()
