"""The words of a command line that name adapters with weights, and the folder to write."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.errors import UserError

NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)
MAX_WEIGHT = 1_000_000  # nobody needs as much, and the sums stay far from float32's largest number
HOW = "give adapters, each with =WEIGHT where there are several, and then OUT_DIR, the folder to write; see --help"


LINEAR = "linear"
METHODS = (LINEAR, "ties", "dare_linear", "dare_ties", "magnitude_prune")  # PEFT's names
DRAWING = ("dare_linear", "dare_ties")


@dataclass(frozen=True)
class Combination:
    """The way in which changes become one: "linear" adds them, each times its weight. density: the share of each change
    that the others keep. seed: of the draw of those that draw it."""

    method: str = LINEAR
    density: float | None = None
    seed: int | None = None

    def __str__(self) -> str:
        told = [f"{name} {value:g}" for name in ("density", "seed") if (value := getattr(self, name)) is not None]
        return ", ".join([self.method, *told])


@dataclass(frozen=True)
class Given:
    """A folder or a hub id, and its weight, None where it has none."""

    name: str
    weight: float | None


def adapters_and_folder(words: Sequence[str]) -> tuple[list[Given], Path]:
    """Return the adapters that are named, and OUT_DIR, which comes last. Raises UserError for what cannot be meant."""
    *names, last = words
    if not names:
        raise UserError(f"{last!r} alone: {HOW}")
    given = [read_word(word) for word in names]
    if any(each.weight is not None for each in given) and _is_weighted(last):
        raise UserError(f"{last}: OUT_DIR comes last, and this has a weight; end the name of a folder with /")
    if len(given) > 1 and (without := next((each.name for each in given if each.weight is None), None)):
        raise UserError(f"{without} has no weight: give each of several adapters one, such as {without}=0.5")
    if all(each.weight == 0 for each in given):
        raise UserError("all weights are 0: that is the base alone")
    _refuse_twice(given)
    return given, Path(last)


def settings_of_combination(
    method: str | None, density: float | None, seed: int | None, is_mixture: bool = True
) -> Combination:
    """Return what the options --combine, --density and --seed say. Raises UserError for what does not go together."""
    options = {"--combine": method, "--density": density, "--seed": seed}
    if not is_mixture and (named := next((name for name, value in options.items() if value is not None), None)):
        raise UserError(f"{named} is for adapters with weights, such as A=0.7 B=0.3")
    method = method or LINEAR
    if method not in METHODS:
        raise UserError(f"--combine {method} is not known; take one of {', '.join(METHODS)}")
    if method == LINEAR and density is not None:
        raise UserError("--density: --combine linear keeps every change whole; leave it out, or take another method")
    if method != LINEAR and density is None:
        raise UserError(f"--combine {method} keeps a share of each change: say which with --density, such as 0.5")
    if density is not None and not 0 < density <= 1:
        raise UserError(f"--density {density:g}: give a share above 0, and at most 1")
    if seed is not None and method not in DRAWING:
        raise UserError(f"--seed: --combine {method} draws nothing; it is for {' and '.join(DRAWING)}")
    return Combination(method, density, (seed or 0) if method in DRAWING else None)


def read_word(word: str) -> Given:
    """Return what NAME or NAME=WEIGHT says. The last = counts: names of folders may have some."""
    name, sign, text = word.rpartition("=")
    if not sign:
        return Given(word, None)
    if Path(word).exists():
        if name and Path(name).exists() and NUMBER.fullmatch(text):
            raise UserError(
                f"{word}: both {name!r} and {word!r} are there; give {word}=1 for the second, or ./{name}/={text} "
                "for the first"
            )
        return Given(word, None)
    if not name:
        raise UserError(f"{word!r}: there is no adapter before the =")
    if not NUMBER.fullmatch(text):
        raise UserError(f"{word}: {text!r} is no number; give ADAPTER=WEIGHT, such as {name}=0.5")
    if abs(weight := float(text)) > MAX_WEIGHT:
        raise UserError(f"{word}: {text!r} is too large a weight; give one from -{MAX_WEIGHT:,} to {MAX_WEIGHT:,}")
    return Given(name, weight)


def _is_weighted(word: str) -> bool:
    name, _, text = word.rpartition("=")
    return not Path(word).exists() and bool(name) and NUMBER.fullmatch(text) is not None


def _refuse_twice(given: Sequence[Given]) -> None:
    places: dict[str, str] = {}
    for each in given:
        place = str(Path(each.name).resolve()) if Path(each.name).exists() else each.name
        if place in places:
            raise UserError(f"{each.name} is given twice, also as {places[place]}: give it once, with one weight")
        places[place] = each.name
