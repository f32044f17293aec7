"""Servers of this process, while a test asks them."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path


@contextmanager
def serving(server: HTTPServer) -> Iterator[HTTPServer]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class PartServer(ThreadingHTTPServer):
    """Sends parts of the files of a folder; of /whole/X the whole file, as some servers do. asked: name, first byte and
    number of bytes of each request; failures: statuses of the next answers."""

    daemon_threads = True

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), _PartHandler)
        self.folder, self.failures = folder, []
        self.asked: list[tuple[str, int, int]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _PartHandler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        name = self.path.partition("?")[0].lstrip("/")
        path = self.server.folder / name.removeprefix("whole/")
        if self.server.failures:
            return self.send_error(self.server.failures.pop(0))
        if not path.is_file():
            return self.send_error(404)
        status, content, headers = part_of(path.read_bytes(), self.headers["Range"])
        if name.startswith("whole/"):
            status, content, headers = 200, path.read_bytes(), {}
        else:
            start = int(re.findall(r"\d+", self.headers["Range"])[0])
            self.server.asked.append((name, start, len(content)))
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(content)


def part_of(content: bytes, wanted: str | None) -> tuple[int, bytes, dict[str, str]]:
    """Return status, content and headers of an answer to a request with the header Range."""
    if wanted is None:
        return 200, content, {}
    start, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", wanted).groups())
    if start >= len(content):
        return 416, b"", {"Content-Range": f"bytes */{len(content)}"}
    piece = content[start : last + 1]
    return 206, piece, {"Content-Range": f"bytes {start}-{start + len(piece) - 1}/{len(content)}"}


class Judge(ThreadingHTTPServer):
    """Answers a chat by `replies[predicted answer]`: texts, or numbers that are statuses; the last one stays."""

    daemon_threads = True

    def __init__(self, replies):
        super().__init__(("127.0.0.1", 0), JudgeHandler)
        self.replies, self.asked, self.lock = replies, [], threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class JudgeHandler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        predicted = body["messages"][1]["content"].split("Predicted Answer: ")[1].split("\n")[0]
        with self.server.lock:
            self.server.asked.append((self.path, self.headers["Authorization"], body))
            waiting = self.server.replies[predicted]
            reply = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        if reply is None:
            return  # hangs up without a word
        status = reply if isinstance(reply, int) else 200
        content = json.dumps({"choices": [{"message": {"content": reply}}]}).encode()
        self.send_response(status)
        if status in (302, 307):
            self.send_header("Location", "http://127.0.0.1:9/elsewhere")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
