"""reeltune serve: a model behind an endpoint with OpenAI's interface, and a page beside it."""

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

from typer import Option

from data.errors import UserError
from train.commands.options import (
    MOST,
    AnsweringDtype,
    AnyBase,
    BaseName,
    MaxContext,
    MaxNewTokens,
    ModelArgument,
    NumFrames,
    PrefixMemory,
    Quantization,
)

if TYPE_CHECKING:
    from train.serving.server import AddPage

NEEDED = {"starlette": "starlette", "uvicorn": "uvicorn", "python_multipart": "python-multipart"}
logger = logging.getLogger(__name__)

MIB, GIB = 2**20, 2**30
SystemPrompt = Annotated[
    str | None,
    Option(help="where a request has none of its own", show_default="that of the recipe beside the model"),
]
Examples = Annotated[
    str | None, Option(metavar="FILE", help="a data file, whose first clips are on the page", show_default="none")
]
MediaRoot = Annotated[
    str | None, Option(metavar="DIR", help="folder of the examples' files", show_default="the file's own")
]
MaxBody = Annotated[float, Option(min=0.001, max=MOST, metavar="MIB", help="largest request, with clips in base64")]
DecodeSeconds = Annotated[float, Option(min=0.1, max=MOST, help="for a picture or clip, to fetch and to decode it")]
MediaHost = Annotated[
    list[str] | None,
    Option(
        help="a host whose addresses are fetched, or a pattern; again for more; public: all on the internet",
        show_default="none",
    ),
]


def check_installed() -> None:
    """Raise UserError where the libraries of the extra are missing."""
    missing = [name for module, name in NEEDED.items() if find_spec(module) is None]
    if missing:
        raise UserError(f"reeltune serve needs {', '.join(missing)}: pip install -e '.[serve]'")


def page_of(is_wanted: bool, examples: str | None, media_root: str | None) -> "AddPage | None":
    """Return what adds the page, None where there is none; a line says so where its library is missing."""
    if not is_wanted:
        if examples:
            raise UserError("--examples are shown on the page, and there is none with --no-page")
        return None
    if find_spec("gradio") is None:
        logger.info("no page: it needs gradio, pip install -e '.[ui]'; --no-page leaves this line out")
        return None
    from train.page.opening import page_with

    return page_with(examples, media_root)


def serve(
    model: ModelArgument,
    host: Annotated[str, Option(help="address to listen at; any but this machine's own needs a token")] = "127.0.0.1",
    port: Annotated[int, Option(min=0, max=65535, help="0: any that is free")] = 8000,
    name: Annotated[str | None, Option(help="of the model, for clients", show_default="its folder's or hub id")] = None,
    system_prompt: SystemPrompt = None,
    max_new_tokens: MaxNewTokens = 512,
    num_frames: NumFrames = None,
    prefix_memory: PrefixMemory = 4.0,
    max_context: MaxContext = None,
    max_requests: Annotated[int, Option(min=1, help="that are there at any time; others are told to wait")] = 32,
    max_upload: Annotated[float, Option(min=0.001, max=MOST, metavar="MIB", help="largest file")] = 512.0,
    max_body: MaxBody = 64.0,
    disk: Annotated[float, Option(min=0.00001, max=MOST, metavar="GIB", help="files that are kept, the latest")] = 4.0,
    decode_seconds: DecodeSeconds = 60.0,
    page: Annotated[bool, Option(help="show a page at the same port: drop a clip, see its frames, talk")] = True,
    examples: Examples = None,
    media_root: MediaRoot = None,
    media_host: MediaHost = None,
    base: BaseName = None,
    dtype: AnsweringDtype = "auto",
    any_base: AnyBase = False,
    quantization: Quantization = None,
) -> None:
    """Answer questions at an endpoint with OpenAI's interface and on a page, as generate would, word by word.

    \b
        reeltune serve outputs/my-run

    What was computed about the last clips is kept: a further question about one answers at once. The token that
    clients must send is taken from the environment, REELTUNE_TOKEN.
    """
    check_installed()
    from train.results.loading import Loading
    from train.serving.opening import serve_model
    from train.serving.server import Limits
    from train.talking.sampling import Sampling

    add_page = page_of(page, examples, media_root)
    limits = Limits(max_requests, int(max_upload * MIB), int(max_body * MIB), int(disk * GIB))
    serve_model(
        model,
        host,
        port,
        name,
        Sampling(max_tokens=max_new_tokens),
        media_host or (),
        decode_seconds,
        limits,
        add_page,
        how=Loading(base, dtype, quantization, any_base),
        num_frames=num_frames,
        system_prompt=system_prompt,
        max_bytes=int(prefix_memory * GIB),
        max_context=max_context,
    )
