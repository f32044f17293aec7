"""A server ends when it is told to, however many pages are shown, and leaves nothing of them."""

import asyncio
import multiprocessing
import os
import signal
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route

from train.page.opening import page_with
from train.serving.guard import HEARTBEAT
from train.serving.server import Limits, _Server, guarded, listen, run

PATIENCE = 60  # seconds: far more than a process takes, far less than answers may go on for here


async def beats():
    yield b"beat"
    await asyncio.sleep(10 * PATIENCE)


def serve(bound: socket.socket) -> None:
    app = Starlette(routes=[Route(f"{HEARTBEAT}{{page}}", lambda request: StreamingResponse(beats()))])
    limits = Limits(end_seconds=10 * PATIENCE)
    run(guarded(app, None, False, limits), bound, limits)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_page_that_is_shown_holds_no_server_up(number):
    bound = listen("127.0.0.1", 0, None)
    server = multiprocessing.get_context("fork").Process(target=serve, args=(bound,), daemon=True)
    server.start()
    with socket.create_connection(bound.getsockname(), PATIENCE) as page:
        page.sendall(f"GET {HEARTBEAT}1 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        read = b""
        while b"beat" not in read:
            read += page.recv(4096)
        os.kill(server.pid, number)
        server.join(PATIENCE)
        assert server.exitcode is not None
    bound.close()


def test_a_signal_that_comes_before_the_server_has_begun_ends_it(monkeypatch):
    begin = _Server.run

    def told_at_once(self, sockets):
        os.kill(os.getpid(), signal.SIGTERM)
        begin(self, sockets)

    monkeypatch.setattr(_Server, "run", told_at_once)
    bound = listen("127.0.0.1", 0, None)
    server = multiprocessing.get_context("fork").Process(target=serve, args=(bound,), daemon=True)
    server.start()
    server.join(PATIENCE)
    assert server.exitcode == 0
    bound.close()


def test_gradio_keeps_its_files_in_the_server_s_folder(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    monkeypatch.delenv("GRADIO_TEMP_DIR")  # and what is set meanwhile goes, too
    layout = SimpleNamespace(add_page=lambda *given: seen.append(os.environ["GRADIO_TEMP_DIR"]))
    monkeypatch.setitem(sys.modules, "train.page.layout", layout)
    endpoint = SimpleNamespace(files=SimpleNamespace(folder=Path(tmp_path)))
    page_with(None, None)(Starlette(), endpoint)
    assert seen == [str(tmp_path / "page")]
