"""A command whose pictures and clips are shown in the order in which they are given."""

from collections.abc import Mapping, Sequence
from typing import Literal

from typer import Context
from typer.core import TyperCommand

ORDER = "order of the options"
Kind = Literal["video", "image"]


class InOrder(TyperCommand):
    """A command that knows in which order its options were given, over all of them."""

    def parse_args(self, ctx, args: list[str]) -> list[str]:  # pyrefly: ignore[implicit-any-parameter]: click's or typer's Context
        ctx.meta[ORDER] = [each.name for each in self.make_parser(ctx).parse_args(list(args))[2]]
        return super().parse_args(ctx, args)


def media_in_order(context: Context, given: Mapping[Kind, Sequence[str] | None]) -> list[tuple[Kind, str]]:
    """Return (kind, file) of all files, which the options hold kind by kind."""
    files = {kind: iter(names or ()) for kind, names in given.items()}
    return [(kind, next(files[kind])) for kind in context.meta[ORDER] if kind in files]
