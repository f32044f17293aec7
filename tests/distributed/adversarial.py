"""Launched by `test_adversarial.py`: ranks with clips beside ranks with pictures, with text, with nothing at all.

FOLDER holds the model and its media, OUT_DIR gets metrics.jsonl of NUM_EPOCHS times four steps.
"""

import sys
from pathlib import Path

from accelerate import PartialState
from transformers import set_seed

from data.batches.collator import RowCollator
from data.packing.dataset import RowDataset, shared_prefix_rows
from data.processor import set_up_processor
from data.sources.source import Source
from data.tokens.corpus import load_corpus
from train.loop.trainer import RowTrainer
from train.model.adapters import add_adapter
from train.model.load import load_model
from train.ranks.processes import among_processes, towers_of_all_ranks
from train.recipe.training_arguments import build_training_arguments, device_defaults
from train.run_folder.metrics import MetricsFile

NUM_FRAMES = 2
CLIP, PICTURE, BOTH, TEXT = range(4)
# Two rows a step: one each on two ranks. The last step of an epoch has one row, another kind each time.
STEPS = [(CLIP, PICTURE), (TEXT, CLIP), (TEXT, BOTH)]
LAST = (CLIP, PICTURE, BOTH, TEXT)


class AdversarialRows(RowDataset):
    def __len__(self) -> int:
        return 2 * len(STEPS) + 1

    def rows(self, epoch: int) -> list[list[int]]:
        order = [kind for step in STEPS for kind in step] + [LAST[epoch % len(LAST)]]
        return [[kind] for kind in order]


def train(folder: Path, out_dir: Path, num_epochs: int) -> None:
    arguments = {
        "output_dir": str(out_dir),
        "per_device_train_batch_size": 1,
        "num_train_epochs": num_epochs,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",  # so that a shorter run is the beginning of a longer one
        "optim": "sgd",
        "gradient_checkpointing": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }
    args = build_training_arguments({**device_defaults("float32"), **arguments})
    PartialState()
    processor, visual_tokens, _ = set_up_processor(str(folder), num_frames=NUM_FRAMES)
    samples = load_corpus([Source(folder / "train.json")], processor.tokenizer, visual_tokens, 256).samples
    packed = shared_prefix_rows(samples, processor.tokenizer, visual_tokens, 4, 256, seed=0)
    rows = AdversarialRows(samples, packed.groups, 256, seed=0)
    assert len(packed.groups) == len(LAST)
    base = load_model(str(folder))
    set_seed(0)
    model = add_adapter(base, r=2, alpha=4, dropout=0.0, modules_to_save=["multi_modal_projector"])
    trainer = RowTrainer(
        model=model,
        args=args,
        train_dataset=rows,
        data_collator=RowCollator(processor, visual_tokens, towers_of_all_ranks(args, model, rows)),
        processing_class=processor,
        callbacks=[MetricsFile(args.output_dir)],
        rows_per_step=2,
    )
    out_dir.mkdir(exist_ok=True)
    trainer.train()


if __name__ == "__main__":
    with among_processes():
        train(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
