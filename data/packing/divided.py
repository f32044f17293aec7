"""Rows to evaluate on, each of one source and one modality, so that these get figures of their own."""

from collections.abc import Mapping

from data.media.reference import Modality, modality_of
from data.packing.dataset import RowDataset
from data.packing.mixture import Mixture

Part = tuple[str, Modality]  # the name of a source, and a modality


class DividedRows(Mixture):
    """The rows of several sources, for evaluation. parts: those of each source and modality that there are."""

    def __init__(self, sources: Mapping[str, RowDataset], seed: int):
        self.wholes = list(sources.values())
        self.parts: dict[Part, RowDataset] = {}
        for name, rows in sources.items():
            numbers: dict[Modality, list[int]] = {}
            for number, sample in enumerate(rows.groups.first_samples()):
                numbers.setdefault(modality_of(rows.samples[sample].media), []).append(number)
            for modality, chosen in numbers.items():
                groups = rows.groups.only(chosen)
                self.parts[name, modality] = RowDataset(rows.samples, groups, rows.max_tokens_per_row, seed)
        super().__init__(list(self.parts.values()), [1.0] * len(self.parts), seed)

    def num_samples(self) -> int:
        return sum(rows.num_samples() for rows in self.wholes)

    def _in_order(self) -> list[RowDataset]:
        """Return the rows as they were: the data are the same however they are divided."""
        return self.wholes
