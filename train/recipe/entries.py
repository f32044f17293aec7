"""A recipe's entries of data.train and data.eval: files of conversations."""

import os
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from data.sources.forms import KEYS, TAGS
from train.scoring.names import Metric

Column = Literal[KEYS]  # pyrefly: ignore[not-a-type]: a tuple of names
Tag = Literal[TAGS]  # pyrefly: ignore[not-a-type]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
# Of this machine: a recipe has no shell that would make a home folder of ~. Addresses and names on the hub have none.
FilePath = Annotated[str, Field(min_length=1), AfterValidator(os.path.expanduser)]
# A file is called by it, and a key ends in it.
SourceName = Annotated[str, Field(pattern=r"^\w([\w .+-]{0,62}\w)?$")]


class Section(BaseModel):
    """Unknown keys are errors and nothing is converted: `true` is no number, `8` is no text."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Dataset(Section):
    """One file of conversations."""

    path: FilePath
    """JSON, JSONL, Parquet, Arrow or tar files, several as data-{000..009}.tar or data-*.tar; https addresses of tar
    files; a data set's folder; or its name on the hub, owner/name. Relative paths start where the command is run."""
    revision: str | None = None
    """Branch, tag or commit of a data set on the hub."""
    split: str | None = None
    """Split of a data set; null where it has but one."""
    files: str | None = None
    """Its data files by a pattern, e.g. data/train-*.parquet, instead of split."""
    media_root: FilePath | Annotated[list[FilePath], Field(min_length=1)] | None = None
    """Folder of the clips and pictures, which their paths may not leave; of several, the first that has a file; null is
    the folder of the data file, unbounded. In a data set from the hub, a folder of it."""
    outside_media_root: bool = False
    """Media paths may leave media_root."""
    columns: dict[Column, str] = {}
    """Names of a record's keys in this source, e.g. {query: question, response: answer, videos: clip}."""
    tags: dict[Tag, str] = {}
    """Names in its turns, where these are neither from/value nor role/content: role_tag, content_tag, user_tag,
    assistant_tag and system_tag, as in LLaMA-Factory."""
    weight: Positive = 1.0
    """In training: how often an epoch uses the conversations of this source; where one is not 1, each is packed by
    itself."""


class EvalDataset(Dataset):
    """One file of conversations to evaluate on."""

    metric: Literal["auto", Metric] | None = None
    """Each evaluation has the model answer, and scores the answers in this way (docs/scoring.md); auto takes a record's
    own metric, or as evaluate does without --metric. null measures the loss alone."""
    max_questions: Count | None = None
    """So many questions are asked, the first ones; null is all. The loss is always that of all."""
    name: SourceName | None = None
    """In reports, files and training.metric_for_best_model; null is the name of the file without its ending."""

    @property
    def own_metric(self) -> Metric | None:
        """The metric for all records, None where each says itself."""
        return None if self.metric == "auto" else self.metric
