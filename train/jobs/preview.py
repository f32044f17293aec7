"""The first rows of a recipe as one HTML page."""

from collections.abc import Sized
from itertools import islice
from pathlib import Path

from data.batches.collator import PaddedCollator, RowCollator
from data.errors import UserError
from data.files import write_whole
from data.inspection.preview import show_row
from data.inspection.preview_page import page
from data.processor import set_up_processor
from data.progress.log import heard
from train.loop.rows import RowReader
from train.loop.tower_inputs import pixel_loader
from train.model.load import quiet_libraries
from train.recipe.recipe import Recipe
from train.recipe.settings import in_words_of_recipes


@in_words_of_recipes()
def preview_recipe(recipe: Recipe, recipe_file: Path, out: Path, num_rows: int) -> None:
    """Write the page of the first epoch's first rows. recipe_file: where the recipe is from, for the title."""
    if num_rows < 1:
        raise UserError(f"--rows: must be 1 or more, got {num_rows}")
    quiet_libraries()

    processor, visual_tokens, notices = set_up_processor(
        recipe.model.name_or_path, recipe.model.revision, num_frames=recipe.data.num_frames
    )
    facts = [f"{recipe.model.name_or_path}: {visual_tokens}"]

    seed = recipe.training_arguments().seed
    with heard("train.loop.rows") as said:
        rows = RowReader(recipe.data, processor.tokenizer, visual_tokens, seed).train_rows()
    is_packed = recipe.data.packing == "shared_prefix"
    collate = (RowCollator if is_packed else PaddedCollator)(
        processor, visual_tokens, load_pixels=pixel_loader(recipe.data, processor, num_workers=1)
    )
    first = [row for plan in islice(rows.rows(epoch=0), num_rows) if (row := rows[plan]) is not None]
    shown = [show_row(row, collate([row]), processor, visual_tokens) for row in first]
    total = f" of {len(rows)}" if isinstance(rows, Sized) else ""  # a stream has no end
    facts += [*notices, *said]
    facts.append(f"shown: {len(shown)}{total} rows, as the first epoch trains them")
    html = page(f"Preview of {recipe_file}", facts, shown, recipe.data.max_tokens_per_row if is_packed else None)
    try:
        write_whole(out, html)
    except OSError as error:
        raise UserError(f"--out: cannot write {out}: {error.strerror}") from error
    print(f"wrote {out}: {len(shown)} rows, {len(html) / 1e6:.1f} MB")
