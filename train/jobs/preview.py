"""The first rows of a recipe, or its longest, cut or left-out conversations, as one HTML page."""

from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from transformers import VideoLlavaProcessor

from data.batches.collator import COLLATORS, PaddedCollator
from data.batches.pixels import PixelLoader
from data.errors import UserError, many, visible
from data.files import write_output
from data.inspection.preview import ShownRow, show_row
from data.inspection.preview_page import Part, page
from data.inspection.selection import Choice, Selected, select
from data.packing.dataset import single_sample_rows
from data.packing.rows import Row, Rows
from data.processor import set_up_processor
from data.progress.log import heard
from data.sources.source import Source
from data.tokens.new_tokens import add_new_tokens
from data.video_llava import VisualTokens
from train.loop.rows import RowReader
from train.loop.tower_inputs import pixel_loader
from train.model.load import quiet_libraries
from train.recipe.recipe import Data, Recipe
from train.recipe.settings import in_words_of_recipes
from train.start.adopted import as_adopted

TITLES = {"longest": "longest", "cut": "cut", "left-out": "left out"}


@in_words_of_recipes()
def preview_recipe(
    recipe: Recipe, recipe_file: Path, out: Path, num_rows: int, choice: Choice | Literal["rows"] = "rows"
) -> None:
    """Write the page: of each split the first epoch's first rows, or the conversations that are chosen.

    recipe_file: where the recipe is from, for the title.
    """
    if num_rows < 1:
        raise UserError(f"--rows: must be 1 or more, got {num_rows}")
    quiet_libraries()
    recipe = as_adopted(recipe)
    processor, visual_tokens, notices = set_up_processor(
        recipe.model.name_or_path, recipe.model.revision, num_frames=recipe.data.num_frames
    )
    add_new_tokens(processor, recipe.model.add_tokens)
    facts = [f"{recipe.model.name_or_path}: {visual_tokens}", *notices]
    looker = Looker(
        recipe.data, processor, visual_tokens, pixel_loader(recipe.data, processor, num_workers=1), num_rows
    )
    data, seed = recipe.data, recipe.training_arguments().seed
    if choice == "rows":
        parts = list(looker.first_rows(seed))
    else:
        splits = {"Training": data.sources(data.train, data.streaming), "Evaluation": data.sources(data.eval)}
        parts = [looker.chosen(choice, name, sources) for name, sources in splits.items() if sources]
    html = page(f"Preview of {recipe_file}", facts, parts)
    write_output("--out", out, html)
    shown = [len(part.rows) + len(part.records) for part in parts]
    what = "row" if choice == "rows" else "conversation"
    print(f"wrote {out}: {' and '.join(many(number, what) for number in shown)}, {len(html) / 1e6:.1f} MB")


@dataclass(frozen=True)
class Looker:
    """Turns the data of a recipe into the parts of a page, with at most `num_rows` rows each."""

    data: Data
    processor: VideoLlavaProcessor
    visual_tokens: VisualTokens
    load_pixels: PixelLoader
    num_rows: int

    def first_rows(self, seed: int) -> Iterator[Part]:
        """Yield the rows to train on, as the first epoch has them, and those to evaluate on."""
        for name, how in (("Training", "as the first epoch trains them"), ("Evaluation", "as they are evaluated")):
            reader = RowReader(self.data, self.processor.tokenizer, self.visual_tokens, seed)
            with heard("train.loop.rows") as facts:
                rows: Rows | None = reader.train_rows() if name == "Training" else reader.eval_rows()
            if rows is None:
                continue
            with heard("data.packing.streaming") as said:
                first = [row for plan in islice(rows.rows(0), self.num_rows) if (row := rows[plan]) is not None]
            shown = [self._show(row, facts.append) for row in first]
            total = f" of {len(rows)}" if isinstance(rows, Sized) else ""  # a stream has no end
            is_one = (len(rows) if isinstance(rows, Sized) else len(shown)) == 1
            facts += [*said, f"shown: {len(shown)}{total} {'row' if is_one else 'rows'}, {how}"]
            yield Part(name, facts, shown, self.data.max_tokens_per_row if self._is_packed else None)

    def chosen(self, choice: Choice, name: str, sources: list[Source]) -> Part:
        """Return a split's conversations of one kind, whole, each by itself."""
        limits = self.data.max_length, self.data.system_prompt
        found, count = select(choice, sources, self.processor.tokenizer, self.visual_tokens, *limits, self.num_rows)
        facts = [
            f"{TITLES[choice]}: {many(count, 'conversation')}"
            if choice != "longest"
            else f"of {many(count, 'conversation')}"
        ]
        rows, remarks, records = [], [], []
        for each in found:
            if each.sample is None:
                records.append(f"{each.name}: has no answer, so there is nothing to train\n{each.record}")
                continue
            rows.append(self._show_alone(each, facts.append))
            remarks.append(f"{each.name}: {_remark(each, self.data.max_length)}")
        facts.append(f"shown: {len(found)}")
        return Part(f"{name}: {TITLES[choice]}", facts, rows, None, remarks, list(map(_printable, records)))

    @property
    def _is_packed(self) -> bool:
        return self.data.packing == "shared_prefix"

    def _show(self, row: Row, say: Callable[[str], None]) -> ShownRow:
        collate = COLLATORS[self.data.packing]
        batch = collate(self.processor, self.visual_tokens, load_pixels=self.load_pixels)([row])
        for problem in batch.get("bad_media", ()):
            say(f"left out: {visible(problem.reason)}")
        return show_row(row, batch, self.processor, self.visual_tokens)

    def _show_alone(self, each: Selected, say: Callable[[str], None]) -> ShownRow:
        assert each.sample is not None
        rows = single_sample_rows([each.sample], self.visual_tokens, seed=0)
        (row,) = (rows[plan] for plan in rows.rows(0))
        batch = PaddedCollator(self.processor, self.visual_tokens, load_pixels=self.load_pixels)([row])
        for problem in batch.get("bad_media", ()):
            say(f"cannot be shown: {visible(problem.reason)}")
        return show_row(row, batch, self.processor, self.visual_tokens, each.num_kept)


def _remark(each: Selected, max_length: int) -> str:
    if not each.num_kept:
        return f"{each.num_tokens:,} tokens, and its first answer ends behind max_length {max_length:,}"
    if each.num_turns_cut:
        return (
            f"{many(each.num_turns_cut, 'turn')} cut from the end, to {each.num_kept:,} of {each.num_tokens:,} tokens"
        )
    return many(each.num_tokens, "token")


def _printable(text: str) -> str:
    return "\n".join(map(visible, text.splitlines()))
