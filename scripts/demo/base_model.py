"""The demo's base: a tiny random Video-LLaVA that has learned the easy questions."""

from pathlib import Path

from data.processor_files import save_processor
from scripts.demo.dataset import make_data
from scripts.demo.questions import Record, all_texts
from train import sft
from train.model.build import SHAPES, build_config, build_model, build_processor, train_tokenizer
from train.model.load import quiet_libraries

BASE_RECIPE = Path(__file__).parents[2] / "recipes" / "demo_base.yaml"
SHAPE = "tiny"


def make_demo(out_dir: Path, seed: int = 0) -> None:
    """Write the data and the base into `out_dir`; all of it depends on `seed` alone.

    Takes about three minutes on two cores, most of them for the base.
    """
    quiet_libraries()
    records = make_data(out_dir, seed)
    save_untrained(records, out_dir / "untrained", seed)
    teach(out_dir / "untrained", out_dir / "easy.json", out_dir / "base", seed)


def save_untrained(records: list[Record], folder: Path, seed: int) -> None:
    """Save a random model, and a processor whose tokenizer knows the records' words."""
    tokenizer = train_tokenizer(all_texts(records))
    build_model(build_config(SHAPE, tokenizer), seed).save_pretrained(folder)
    save_processor(build_processor(tokenizer, SHAPES[SHAPE].edge), folder)


def teach(model: Path, questions: Path, out_dir: Path, seed: int) -> None:
    """Fine-tune all weights with the project's own trainer."""
    overrides = {
        "model.name_or_path": model,
        "data.train": [{"path": str(questions)}],
        "training.output_dir": out_dir,
        "training.seed": seed,
    }
    sft.main([str(BASE_RECIPE), *(f"{key}={value}" for key, value in overrides.items())])
