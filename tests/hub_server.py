"""A stand-in for the hub of Hugging Face: requests of `huggingface_hub` to fetch a model, to push one, and to read data sets.

It follows the hub's protocol as version 2 of the client speaks it: repositories, preupload, Git LFS with basic transfers, and
commits. The newer storage (Xet) is switched off in the client, since it needs a server of its own.
"""

import base64
import contextlib
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

TOKEN = "hf_for-tests-only"  # noqa: S105
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class HubServer:
    """Repositories in memory.

    Attributes:
        url: for HF_ENDPOINT.
        files: content by repository (`datasets/OWNER/NAME` for a data set) and name.
        revisions: names of all revisions of every repository.
        gated: data sets whose conditions nobody has accepted.
        locked: data sets that only TOKEN may read.
        faults: statuses for the next requests for files of data sets.
        requests: method and path of all requests so far.
        private: whether a repository is private.
        commits: descriptions of all commits.
        refuse: paths of requests that get status 403.
        wrong_digest: state other digests than those of the files.
    """

    url: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    commits: list[dict[str, Any]] = field(default_factory=list)
    refuse: set[str] = field(default_factory=set)
    wrong_digest: bool = False
    objects: dict[str, bytes] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    revisions: set[str] = field(default_factory=lambda: {"main", COMMIT})
    gated: set[str] = field(default_factory=set)
    locked: set[str] = field(default_factory=set)
    faults: list[int] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)

    def add_folder(self, name: str, folder: Path) -> None:
        """Add a data set with the files of a folder."""
        self.files[f"datasets/{name}"] = {
            str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()
        }

    def environment(self, home: Path, token: str | None = TOKEN) -> dict[str, str]:
        """Return the environment of a process that uses this hub, with caches and logins in `home`."""
        others = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        return {
            **others,
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            **({"HF_TOKEN": token} if token else {}),
        }

    def digest(self, content: bytes) -> str:
        return hashlib.sha256(content + (b"?" if self.wrong_digest else b"")).hexdigest()


@contextlib.contextmanager
def hub_server() -> Iterator[HubServer]:
    """Run the server in a thread."""
    hub = HubServer()

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: HubServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self._path()
        parts = path.split("/")
        self.state.requests.append((self.command, path))
        if path.startswith("/api/datasets/"):
            self._data_set("/".join(parts[2:5]), parts[5:])
            return
        if path.startswith("/datasets/"):
            self._data_file("/".join(parts[1:4]), unquote(parts[5]), unquote("/".join(parts[6:])))
            return
        if path.startswith("/api/models/"):
            name = "/".join(parts[3:5])
            self._model(name) if name in self.state.files else self._missing("RepoNotFound")
            return
        name, rest = "/".join(parts[1:3]), parts[3:]
        content = self.state.files.get(name, {}).get("/".join(rest[2:])) if rest[:1] == ["resolve"] else None
        if content is None:
            self._missing("EntryNotFound")
            return
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        self._answer(200, content, headers)

    def _refuses(self, name: str, revision: str) -> bool:
        """Answer and return True if a data set is missing, locked, or has no such revision."""
        authorization = self.headers.get("Authorization")
        if authorization not in (None, f"Bearer {TOKEN}"):
            message = "Invalid credentials in Authorization header"
            self._answer(401, b'{"error": "Invalid credentials"}', {"X-Error-Message": message})
        elif name not in self.state.files or (name in self.state.locked and authorization is None):
            # The hub hides from strangers which repositories exist.
            status = 401 if authorization is None else 404
            self._answer(status, b'{"error": "?"}', {"X-Error-Code": "RepoNotFound", "X-Error-Message": "not found"})
        elif revision not in self.state.revisions:
            self._missing("RevisionNotFound")
        else:
            return False
        return True

    def _data_set(self, name: str, rest: list[str]) -> None:
        """Answer `/api/datasets/NAME`, `…/revision/REVISION`, or `…/tree/REVISION[/FOLDER]`: the files of a folder."""
        revision = unquote(rest[1]) if rest else "main"
        if self._refuses(name, revision):
            return
        if rest[:1] != ["tree"]:
            self._json({"id": name.removeprefix("datasets/"), "sha": COMMIT, "private": False, "siblings": []})
            return
        folder = unquote("/".join(rest[2:]))
        prefix = f"{folder}/" if folder else ""
        entries: dict[str, dict[str, Any]] = {}
        for file, content in sorted(self.state.files[name].items()):
            if not file.startswith(prefix):
                continue
            child, deeper, _ = file.removeprefix(prefix).partition("/")
            if "recursive=true" in self.path.lower():
                child, deeper = file, ""
            digest = hashlib.sha256(content).hexdigest()
            known = {"type": "file", "path": file, "oid": digest[:40], "size": len(content)}
            lfs = {"oid": digest, "size": len(content), "pointerSize": 134}
            entries[child] = (
                {"type": "directory", "path": prefix + child, "oid": "0" * 40, "size": 0}
                if deeper
                else {**known, "lfs": lfs}
            )
        if not entries:
            self._missing("EntryNotFound")
            return
        self._json(list(entries.values()))

    def _data_file(self, name: str, revision: str, file: str) -> None:
        if self._refuses(name, revision):
            return
        content = self.state.files[name].get(file)
        if content is None:
            self._missing("EntryNotFound")
        elif name in self.state.gated:
            message = "Access to this data set is restricted"
            self._answer(403, b'{"error": "gated"}', {"X-Error-Code": "GatedRepo", "X-Error-Message": message})
        elif self.state.faults:
            self._answer(self.state.faults.pop(0), b"{}")
        else:
            self._part(content, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT})

    def _part(self, content: bytes, headers: dict[str, str]) -> None:
        """Answer with a content, or with the range that is asked for."""
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            self._answer(200, content, headers)
            return
        begin, end = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
        found = {"Content-Range": f"bytes {begin}-{end}/{len(content)}"}
        self._answer(206, content[begin : end + 1], headers | found)

    def _model(self, name: str) -> None:
        files = self.state.files[name]
        siblings = [
            {
                "rfilename": file,
                "size": len(content),
                "lfs": {"sha256": self.state.digest(content), "size": len(content), "pointerSize": 134},
            }
            for file, content in files.items()
        ]
        self._json({"id": name, "sha": COMMIT, "private": self.state.private.get(name, False), "siblings": siblings})

    def do_POST(self) -> None:
        path, body = self._path(), self._body()
        self.state.tokens.add(self.headers.get("Authorization", "").removeprefix("Bearer "))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, b'{"error": "Invalid credentials"}', {"X-Error-Message": "Invalid credentials"})
        elif any(path.startswith(one) for one in self.state.refuse):
            self._answer(403, b'{"error": "Forbidden"}', {"X-Error-Message": "You have no write access"})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith((".safetensors", ".onnx")) else "regular",
                    "shouldIgnore": False,
                }
                for one in json.loads(body)["files"]
            ]
            self._json({"files": files})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.state.url}/lfs/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            self._json({"transfer": "basic", "objects": objects})
        elif "/commit/" in path:
            parts = path.split("/")
            name = "/".join(parts[2:5] if parts[2] == "datasets" else parts[3:5])
            self._commit(name, [json.loads(line) for line in body.splitlines()])
        else:
            self._missing("NotFound")

    def do_PUT(self) -> None:
        content, oid = self._body(), self._path().rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == oid
        self.state.objects[oid] = content
        self._answer(200, b"")

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if name in self.state.files:
            self._answer(409, json.dumps({"error": "exists", "url": f"{self.state.url}/{name}"}).encode())
            return
        self.state.files[name] = {}
        self.state.private[name] = asked.get("visibility", "private" if asked.get("private") else "public") == "private"
        self._json({"url": f"{self.state.url}/{name}", "name": name})

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        files = dict(self.state.files[name])
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.state.objects[value["oid"]]
            elif line["key"] == "header":
                self.state.commits.append(value)
        self.state.files[name] = files
        self._json({"success": True, "commitOid": COMMIT, "commitUrl": f"{self.state.url}/{name}/commit/{COMMIT}"})

    def _path(self) -> str:
        return self.path.partition("?")[0]

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _json(self, content: object) -> None:
        self._answer(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _missing(self, code: str) -> None:
        self._answer(404, b'{"error": "not found"}', {"X-Error-Code": code, "X-Error-Message": "not found"})

    def _answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""
