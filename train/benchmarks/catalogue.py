"""The benchmarks by name, and their questions as conversations."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.media.locate import Locator
from data.sources.bounds import Bounds
from data.sources.conversation import Conversation, parse_record
from train.benchmarks.files import Item
from train.scoring.names import Benchmark

Read = Callable[[Path, Sequence[Path]], Iterator[Item]]


def reader(name: Benchmark) -> Read:
    """Return the function that reads a benchmark: folder of its questions, folders of its media -> questions."""
    match name:
        case "mvbench":
            from train.benchmarks.mvbench import read
        case "videomme":
            from train.benchmarks.video_mme import read
        case "tempcompass":
            from train.benchmarks.temp_compass import read
        case "nextqa":
            from train.benchmarks.next_qa import read
        case "vqav2":
            from train.benchmarks.pictures import read_vqav2 as read
        case "gqa":
            from train.benchmarks.pictures import read_gqa as read
        case _:
            from train.benchmarks.zero_shot_qa import read as read_one

            return partial(read_one, name)
    return read


def read_benchmark(
    name: Benchmark, folder: Path, media_roots: Sequence[Path] = (), subsets: Sequence[str] = ()
) -> Iterator[Conversation]:
    """Yield the questions of a benchmark as conversations, their records with what scores them.

    media_roots: folders of clips or pictures, instead of those in `folder`. subsets: values of groups, such as "short";
    the questions of any of them are asked. A file that is not there is named as if it were: asking finds it missing.
    """
    if not folder.is_dir():
        raise UserError(f"--data: {folder} is no folder; give that of {name}'s questions and clips")
    roots = tuple(media_roots) or (folder,)
    wanted = {each.casefold() for each in subsets}
    seen: set[str] = set()
    bounds = Bounds(roots)
    for item in reader(name)(folder, roots):
        values = {value.casefold(): value for value in item.groups.values()}
        seen |= values.keys()
        if wanted and wanted.isdisjoint(values):
            continue
        conversation = parse_record(_record(item), f"{name} {item.id}", Locator(roots))
        try:
            bounds.check(conversation.media, conversation.name)
        except UserError:
            raise UserError(
                f"{conversation.name}: {item.media} leads out of {' and '.join(map(str, roots))}; give the folder that "
                "it leads to as --media-root"
            ) from None
        yield conversation
    if unknown := wanted - seen:
        there = f"there are {', '.join(sorted(seen))}" if seen else "it has none"
        raise UserError(f"--subset: {', '.join(sorted(unknown))} is no part of {name}; {there}")


def _record(item: Item) -> dict[str, Any]:
    """Return a question as a record of typed parts, so that nothing in its text stands for a picture or clip."""
    place = {"start": item.start, "end": item.end, "fps": item.fps}
    part = {"type": item.kind, "path": str(item.media.absolute())}
    part |= {key: value for key, value in place.items() if value is not None}
    lists = {"accept": list(item.accept), "answers": list(item.answers), "choices": list(item.choices)}
    return {
        "id": item.id,
        "metric": item.metric,
        "groups": dict(item.groups),
        "messages": [
            {"role": "user", "content": [part, {"type": "text", "text": item.question}]},
            {"role": "assistant", "content": item.answer},
        ],
        **{key: value for key, value in lists.items() if value},
    }
