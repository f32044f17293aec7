"""The QLoRA recipe's own settings on a CUDA device, which a CPU cannot show."""

import json
import math

import pytest
import yaml

from data.media.reference import Media
from train.answering.generation import answer
from train.results.artifact import open_artifact
from train.results.loading import load
from train.sft import main


@pytest.mark.gpu
@pytest.mark.parametrize("quantization", [None, "nf4", "int8"])
def test_bfloat16_with_checkpointing_and_a_paged_optimizer(
    quantization, model_folder, mixed_file, media_folder, tmp_path
):
    recipe = {
        "model": {"name_or_path": str(model_folder), "dtype": "bfloat16", "quantization": quantization},
        "lora": {"r": 8, "alpha": 16},
        "data": {
            "train": [{"path": str(mixed_file)}],
            "max_length": 512,
            "max_tokens_per_row": 512,
            "rows_per_step": 3,
        },
        "training": {
            "output_dir": str(tmp_path / "out"),
            "max_steps": 30,
            "learning_rate": 5e-3,
            "optim": "paged_adamw_8bit",
            "gradient_checkpointing": True,
            "logging_steps": 1,
            "dataloader_num_workers": 1,
        },
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    main([str(tmp_path / "recipe.yaml")])
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert all(map(math.isfinite, losses)) and losses[-1] < losses[0] / 2

    model, processor = load(open_artifact(str(tmp_path / "out")), quantization=quantization)
    assert model.device.type == "cuda"
    messages = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Which way does it move?"}]}]
    clips = [[Media("video", str(media_folder / f"clip{number}.mp4"))] for number in range(4)]
    answers = answer(model, processor, [(messages, media) for media in clips], num_frames=8, max_new_tokens=8)
    assert answers == ["right"] * 4
