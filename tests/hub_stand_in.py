"""A local stand-in for the Hugging Face hub: the HTTP interface that creating a repository and one commit use."""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import yaml
from huggingface_hub import constants, hf_api

from tests.serving import part_of, serving

TOKEN = "hf_" + "goodtoken" * 4
SHA = "1" * 40


class HubStandIn(ThreadingHTTPServer):
    """`private` is each repository's visibility, `files` the bytes of each by repository and path, a branch's by
    repository@branch; `tags` has those of each tag. Models and `data_sets` are read, at the revision main. `watch` is
    called with the path of every request before it is answered. Any token but TOKEN is refused with 401, and
    repositories of others than `me` with 403."""

    request_queue_size = 64  # clients read with many threads

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.private: dict[str, bool] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.uploaded: dict[str, bytes] = {}
        self.data_sets: dict[str, dict[str, bytes]] = {}
        self.uploads: list[str] = []
        self.broken = ""  # a part of the addresses where the connection ends without an answer
        self.commits, self.newest = 0, ""
        self.tags: dict[str, dict[str, dict[str, bytes]]] = {}
        self.watch: Callable[[str], None] = lambda path: None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def standing_in(monkeypatch) -> Iterator[HubStandIn]:
    """Have this process take a stand-in for the hub. The client read the hub's address from HF_ENDPOINT long ago."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    server = HubStandIn()
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(hf_api.api, "endpoint", server.address)
    # The client that transformers made at its first request, with the address of then; older versions keep none.
    monkeypatch.setattr("transformers.utils.hub._hf_api", None, raising=False)
    with serving(server):
        yield server


class _Handler(BaseHTTPRequestHandler):
    server: HubStandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def parse_request(self):
        understood = super().parse_request()
        if understood:
            self.server.watch(self.path)
        return understood

    def do_GET(self):
        repo = self.path.removeprefix("/api/models/")
        if not self._is_allowed():
            return
        if self.path.endswith("/refs"):
            names = self.server.tags.get(repo.removesuffix("/refs"), {})
            refs = [{"name": name, "ref": f"refs/tags/{name}", "targetCommit": SHA} for name in names]
            self._reply(200, {"branches": [], "converts": [], "tags": refs})
        elif re.search(r"/(revision|tree|resolve)/", self.path) or "/datasets/" in self.path:
            self._stored()
        elif repo in self.server.private:
            self._reply(200, {"id": repo, "private": self.server.private[repo], "siblings": []})
        else:
            self._reply(404, {"error": "Repository not found"})

    do_HEAD = do_GET

    def _stored(self):
        """Answer about what can be read: a data set, or a model's main branch or tag."""
        path = self.path.partition("?")[0].removeprefix("/api")
        stored = self.server.data_sets if path.startswith("/datasets/") else self.server.files
        path = re.sub("^/(datasets/|models/)?", "", path)
        match = re.fullmatch(r"([^/]+/[^/]+)(?:/(revision|tree|resolve)/(.*))?", path)
        repo, action, name = match[1], match[2] or "revision", match[3] or "main"
        files = stored.get(repo)
        if (name := unquote(name)).partition("/")[0] in (tags := self.server.tags.get(repo, {})):
            files, name = tags[name.partition("/")[0]], f"main/{name.partition('/')[2]}"
        if files is None:
            self._reply(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif name.partition("/")[0] not in ("main", SHA):
            self._reply(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        elif action == "revision":
            self._reply(200, {"id": repo, "sha": SHA, "siblings": [{"rfilename": path} for path in files]})
        elif action == "tree":
            self._tree(files, name.partition("/")[2])
        else:
            content = files.get(name.partition("/")[2])
            if content is None:
                self._reply(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
                return
            tags = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": SHA}
            status, content, headers = part_of(content, self.headers["Range"])
            self._send(status, content, tags | headers)

    def _tree(self, files: dict[str, bytes], folder: str):
        """Answer which files are in a folder, "" for all; as the hub, 404 for a folder that is not there."""
        found = {path: files[path] for path in files if not folder or path.startswith(f"{folder}/")}
        if not found:
            self._reply(404, {"error": f"{folder} does not exist"}, {"X-Error-Code": "EntryNotFound"})
            return
        oids = {path: hashlib.sha1(content).hexdigest() for path, content in found.items()}
        self._reply(200, [{"type": "file", "path": p, "size": len(found[p]), "oid": oids[p]} for p in found])

    def do_PUT(self):
        content = self._body()
        self.server.uploads.append(self.path)
        if self.server.broken and self.server.broken in self.path:
            self.close_connection = True
            return
        assert hashlib.sha256(content).hexdigest() == self.path.removeprefix("/lfs/")
        self.server.uploaded[self.path.removeprefix("/lfs/")] = content
        self._reply(200, {})

    def do_POST(self):
        body = self._body()
        if not self._is_allowed():
            return
        if self.path == "/api/repos/create":
            self._create(json.loads(body))
        elif self.path == "/api/validate-yaml":
            yaml.safe_load(json.loads(body)["content"].split("---")[1])
            self._reply(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            modes = ["lfs" if path.endswith(".safetensors") else "regular" for path in paths]
            files = [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in zip(paths, modes, strict=True)]
            self._reply(200, {"files": files})
        elif self.path.endswith("/info/lfs/objects/batch"):
            href = f"{self.server.address}/lfs/"
            wanted, there = json.loads(body)["objects"], self.server.uploaded
            objects = [  # without actions for what is there
                {**each, **({} if each["oid"] in there else {"actions": {"upload": {"href": href + each["oid"]}}})}
                for each in wanted
            ]
            self._reply(200, {"transfer": "basic", "objects": objects})
        elif "/commit/" in self.path:
            self._commit([json.loads(line) for line in body.splitlines()])
        elif match := re.fullmatch("/api/models/([^/]+/[^/]+)/branch/(.+)", self.path):
            self.server.files.setdefault(f"{match[1]}@{match[2]}", {})
            self._reply(200, {})
        elif match := re.fullmatch("/api/models/([^/]+/[^/]+)/tag/(.+)", self.path):
            self._tag(match[1], json.loads(body)["tag"])
        else:
            self._reply(404, {"error": f"no such address: {self.path}"})

    def _create(self, wanted: dict):
        repo = f"{wanted['organization'] or 'me'}/{wanted['name']}"
        if not repo.startswith("me/"):
            self._reply(403, {"error": f"You don't have the rights to create a model under {repo.split('/')[0]}"})
            return
        status = 409 if repo in self.server.private else 200
        self.server.private.setdefault(repo, wanted.get("visibility") == "private" or bool(wanted.get("private")))
        self._reply(status, {"url": f"{self.server.address}/{repo}", "error": "exists already"})

    def _commit(self, lines: list[dict]):
        repo, branch = self.path.removeprefix("/api/models/").split("/commit/")
        at = repo if branch == "main" else f"{repo}@{branch}"
        files, self.server.newest = self.server.files.setdefault(at, {}), at
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.uploaded[value["oid"]]
        self.server.commits += 1
        self._reply(200, {"commitUrl": f"{self.server.address}/{repo}/commit/{'0' * 40}", "commitOid": "0" * 40})

    def _tag(self, repo: str, name: str):
        """Tag the newest commit."""
        tags = self.server.tags.setdefault(repo, {})
        if name in tags:
            self._reply(409, {"error": "Tag reference exists already"})
            return
        tags[name] = dict(self.server.files[self.server.newest])
        self._reply(200, {})

    def _is_allowed(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self._reply(401, {"error": "Invalid username or password."})
        return False

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _reply(self, status: int, content: dict | list, headers: dict[str, str] | None = None):
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status: int, data: bytes, headers: dict[str, str]):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
