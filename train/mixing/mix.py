"""Several adapters merged into their base, each with a weight: checked one by one, combined, and checked as a whole."""

from collections.abc import Callable, Sequence
from pathlib import Path

from train.card.facts import read_facts
from train.card.mixture import DataSettings, Part, Told, write_mixture
from train.card.model_card import CARD, make_card
from train.merging.base import BaseWeights
from train.merging.merge import (
    AS_IT_IS,
    MergeOptions,
    Product,
    base_in_words,
    checked_sums,
    open_adapter,
    product_of,
    refuse_to_overwrite,
    size_of,
    write_product,
)
from train.merging.references import Bases, Reference, bases_of, tokens_of
from train.merging.streamed import arithmetic_of, device, streamed_logits
from train.merging.sums import Sums
from train.merging.verdict import TOLERANCES
from train.mixing.agreement import agree_on_base, agree_on_inputs, agree_on_quantization, agree_on_rows
from train.mixing.beside import can_stand_beside, put_beside
from train.mixing.combining import MixedWeights
from train.mixing.given import LINEAR, Combination, Given
from train.model.bare import bare_model, give_buffers
from train.model.weight_files import digest_of_files
from train.preprocessing.contract import Preprocessing, write_preprocessing
from train.results.artifact import Artifact
from train.results.identity import check_digests

IN_PEFT = "those of PEFT with all adapters beside the base"
ONCE_MORE = "those of the mixture, made once more from base and adapters"
Weighted = list[tuple[Artifact, float]]


def merge_mixture(
    given: Sequence[Given],
    out_dir: Path,
    how: Combination,
    options: MergeOptions = AS_IT_IS,
    report: Callable[[str], None] = print,
) -> None:
    """Merge adapters, each with its weight; parameters and promises are those of `merge_adapter`.

    Each adapter by itself must answer as at the end of its training. Nobody has trained the mixture: it must answer as
    base and adapters do when they are put together once more, by PEFT where PEFT can run such a sum.
    """
    refuse_to_overwrite(out_dir)
    adapters = [(open_adapter(each.name, options), 1.0 if each.weight is None else each.weight) for each in given]
    artifacts = [artifact for artifact, _ in adapters]
    what = product_of(artifacts[0], out_dir, options)
    for other in artifacts[1:]:
        check_digests(other)
    agree_on_base(artifacts)
    agree_on_rows(artifacts)
    kept = agree_on_inputs(artifacts)
    report(base_in_words(what.artifact, options))
    bases = [bases_of(artifact, what.layout, options.onto) for artifact in artifacts]
    chosen = [each.chosen for each in bases]
    agree_on_quantization(artifacts, chosen)
    sums = [
        (_checked(artifact, own, what, report), weight) for (artifact, weight), own in zip(adapters, bases, strict=True)
    ]
    mixture = MixedWeights(chosen[0], sums, what.layout, how)
    wanted = _reference(what, adapters, chosen[0], mixture, how)
    told = write_product(
        what, out_dir, mixture, [wanted], lambda folder: _write_beside(folder, adapters, how, kept, out_dir.name)
    )
    report(f"merged {len(adapters)} adapters ({how}); {told}")
    report("nobody has trained this mixture: what it answers is a question to reeltune evaluate")
    report(size_of(out_dir, what.dtype))


def _checked(artifact: Artifact, bases: Bases, what: Product, report: Callable[[str], None]) -> Sums:
    """Return what merging an adapter alone would write, after it has answered as in training."""

    def about(line: str) -> None:
        report(f"{artifact.name_or_path}: {line}" if artifact.name_or_path not in line else line)

    return checked_sums(artifact, bases, what, about)[0]


def _reference(
    what: Product, adapters: Weighted, base: BaseWeights, mixture: MixedWeights, how: Combination
) -> Reference:
    """Return the logits that the files must have, without the files."""
    artifact = what.artifact
    model = bare_model(artifact.config, tokens_of(artifact))
    give_buffers(model, device())
    in_peft = how.method == LINEAR and all(can_stand_beside(each) for each, _ in adapters)
    if in_peft:
        put_beside(model, adapters)
    dtype = arithmetic_of(base.quantization.dtype if base.quantization else base.dtype)
    logits = streamed_logits(model, base if in_peft else mixture, what.inputs, dtype, "running the mixture")
    limit = max(TOLERANCES[what.dtype], TOLERANCES[artifact.dtype])
    return Reference(logits, IN_PEFT if in_peft else ONCE_MORE, limit)


def _write_beside(folder: Path, adapters: Weighted, how: Combination, kept: Preprocessing, name: str) -> None:
    """Write what the model was made of, how it is asked, and its card. No recipe is that of the whole."""
    base = adapters[0][0].base
    parts = [_part(artifact, weight) for artifact, weight in adapters]
    sampling = kept.sampling
    data = DataSettings(
        num_frames=kept.num_frames,
        system_prompt=kept.system_prompt,
        frame_sampling="fps" if sampling.way == "fps" else "uniform",
        frames_per_second=sampling.frames_per_second,
    )
    told = Told(method=how.method, density=how.density, seed=how.seed, data=data, adapters=parts)
    write_mixture(folder, told)
    write_preprocessing(folder, kept)
    (folder / CARD).write_text(make_card(folder, name, base), encoding="utf-8")


def _part(artifact: Artifact, weight: float) -> Part:
    """Return what is told of an adapter in a mixture."""
    assert artifact.adapter_weights is not None
    facts = read_facts(artifact.adapter_weights.parent, artifact.recipe)
    return Part(
        name=artifact.name_or_path,
        weight=weight,
        sha256=digest_of_files([artifact.adapter_weights]),
        step=facts.step,
        counts=dict(facts.counts.get("train", {})),
        recipe=dict(facts.recipe),
    )
