"""A server from the name of a model or adapter."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.decoding.isolated_decoder import IsolatedDecoder
from data.media.reference import Media
from train.serving.files import Files
from train.serving.questions import Reader
from train.serving.server import TOKEN, AddPage, Limits, fetcher, listen, own_folder, serve
from train.serving.service import Service
from train.talking.opening import open_talker
from train.talking.sampling import Sampling


def key_of(item: Media) -> tuple:
    """Return what changes when another picture, clip or part of it is meant: a file is named by its digest."""
    return item.kind, item.path, item.start, item.end


def serve_model(
    name_or_path: str,
    host: str,
    port: int,
    name: str | None,
    sampling: Sampling,
    media_hosts: Sequence[str],
    decode_seconds: float,
    limits: Limits,
    add_page: AddPage | None = None,
    **settings: Any,
) -> None:
    """Load a model and serve it, with what `add_page` adds; `settings` go to `open_talker`."""
    token = os.environ.get(TOKEN) or None
    bound = listen(host, port, token)  # before a weight is loaded: who asks meanwhile waits
    decode = IsolatedDecoder(decode_seconds, is_patient=False)
    try:
        talker, asking = open_talker(name_or_path, decode=decode, key=key_of, **settings)
        with own_folder() as folder:
            files = Files(folder, limits.max_files, limits.max_file)
            reader = Reader(
                name or served_name(name_or_path),
                files,
                sampling,
                asking.system_prompt,
                fetcher(files, media_hosts, folder, decode_seconds),
            )
            serve(Service(talker, limits.max_requests), reader, files, bound, token, limits, add_page)
    finally:
        bound.close()
        decode.end()


def served_name(name_or_path: str) -> str:
    """Return a hub id as it is, and of a folder its own name alone: where it lies is nobody's business."""
    return Path(name_or_path).resolve().name if os.path.isdir(name_or_path) else name_or_path
