"""A small Hugging Face hub on the loopback, serving Minari datasets in the layout of the real one.

A repository is the first part of a dataset's id; its `namespace_metadata.json` names its datasets.
HDF5 files are in large-file storage: the hub answers with a redirect to a second origin, as the
real one does. `faults` names what goes wrong for a file: see `Fault`.
"""

import hashlib
import json
import threading
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import parse_qs, unquote, urlsplit

Kind = Literal["cut", "damage", "longer", "hang", "trickle", "500", "404", "no ranges"]


@dataclass
class Fault:
    """What goes wrong with a file, or with `api`; `times` counts the answers it spoils."""

    kind: Kind
    times: int | None = None

    def strikes(self) -> bool:
        if self.times is None:
            return True
        self.times -= 1
        return self.times >= 0


@dataclass
class Repository:
    """Files by path, and the commit they make."""

    files: dict[str, bytes] = field(default_factory=dict)

    @property
    def commit(self) -> str:
        everything = b"".join(k.encode() + v for k, v in sorted(self.files.items()))
        return hashlib.sha1(everything, usedforsecurity=False).hexdigest()


class Hub:
    """The hub and its storage; a context manager that serves while it is open."""

    def __init__(self, owner: str = "farama-minari", page: int = 3) -> None:
        self.owner = owner
        self.page = page  # entries of a listing in one answer
        self.repositories: dict[str, Repository] = {}
        self.faults: dict[str, list[Fault]] = {}  # by the ending of a path
        self.requests: deque[tuple[str, str, str]] = deque()  # method, path, range
        self._servers = [_server(self), _server(self)]
        self._released = threading.Event()

    def __enter__(self) -> Self:
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._released.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._servers[0].server_port}"

    @property
    def storage_url(self) -> str:
        return f"http://127.0.0.1:{self._servers[1].server_port}"

    def add(self, folder: Path, dataset: str, *, namespaces: bool = True) -> None:
        """Publish the dataset in `folder` under an id."""
        name, _, inside = dataset.partition("/")
        repository = self.repositories.setdefault(name, Repository())
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                path = "/".join(filter(None, (inside, file.relative_to(folder).as_posix())))
                repository.files[path] = file.read_bytes()
        if namespaces and inside:
            self._register(repository, name, dataset)

    def _register(self, repository: Repository, name: str, dataset: str) -> None:
        top = json.loads(repository.files.get("namespace_metadata.json", b"{}"))
        above = dataset.split("/")[:-1]
        inner = ["/".join(above[: i + 1]) for i in range(1, len(above))]
        top["description"] = f"{name}, a namespace"
        top["datasets"] = sorted({*top.get("datasets", []), dataset})
        top["namespaces"] = sorted({*top.get("namespaces", []), *inner})
        repository.files["namespace_metadata.json"] = json.dumps(top).encode()
        for namespace in inner:
            path = f"{namespace.partition('/')[2]}/namespace_metadata.json"
            repository.files[path] = json.dumps({"description": namespace}).encode()

    def fault(self, name: str) -> Kind | None:
        """What strikes a file now: the first of its faults that is not used up."""
        for ending, faults in self.faults.items():
            if name.endswith(ending):
                return next((fault.kind for fault in faults if fault.strikes()), None)
        return None

    def wait(self, seconds: float) -> None:
        """Sleep, unless the hub is closed meanwhile."""
        self._released.wait(seconds)


def is_large(path: str) -> bool:
    return path.endswith((".hdf5", ".arrow", ".png"))


def announced(path: str, size: int) -> int:
    """The size that the listing gives; a test may replace it by a lie."""
    return size


def git_name(content: bytes) -> str:
    head = f"blob {len(content)}\0".encode()
    return hashlib.sha1(head + content, usedforsecurity=False).hexdigest()


def _server(hub: Hub) -> ThreadingHTTPServer:
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    return server


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: what was asked is in `hub.requests`."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def handle(self) -> None:
        try:
            super().handle()
        except (ConnectionError, TimeoutError):
            self.close_connection = True  # the client went away: nobody to tell

    def _answer(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path).strip("/")
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        self.hub.requests.append((self.command, path, self.headers.get("Range", "")))
        parts = path.split("/")
        if parts[:2] == ["api", "datasets"]:
            self._api(parts[2:], query)
        elif parts[0] == "datasets" and len(parts) > 5 and parts[3] == "resolve":
            self._resolve(parts[1], parts[2], "/".join(parts[5:]))
        elif parts[0] == "storage":
            self._stored(parts[1])
        else:
            self._error(404, "EntryNotFound")

    # ------------------------------------------------------------------ the interface

    def _api(self, parts: list[str], query: dict[str, str]) -> None:
        kind = self.hub.fault("api")
        if kind == "500":
            return self._error(500, "")
        if kind == "hang":
            return self.hub.wait(60)
        if not parts:
            return self._json(self._repositories(query))
        repository = self._repository(*parts[:2]) if len(parts) >= 2 else None
        if repository is None:
            return self._error(404, "RepoNotFound")
        if len(parts) == 4 and parts[2] == "revision":
            files = [{"rfilename": path} for path in sorted(repository.files)]
            name = "/".join(parts[:2])
            return self._json({"id": name, "sha": repository.commit, "siblings": files})
        if len(parts) >= 4 and parts[2] == "tree":
            return self._tree(repository, "/".join(parts), query)
        return self._error(404, "EntryNotFound")

    def _repositories(self, query: dict[str, str]) -> list[dict[str, str]]:
        if query.get("author") != self.hub.owner:
            return []
        wanted = query.get("search", "").lower()
        names = [name for name in sorted(self.hub.repositories) if wanted in name.lower()]
        return [{"id": f"{self.hub.owner}/{name}"} for name in names]

    def _repository(self, owner: str, name: str) -> Repository | None:
        return self.hub.repositories.get(name) if owner == self.hub.owner else None

    def _tree(self, repository: Repository, path: str, query: dict[str, str]) -> None:
        entries: list[dict[str, object]] = []
        for name, content in sorted(repository.files.items()):
            entry: dict[str, object] = {
                "type": "file",
                "oid": git_name(content),
                "size": announced(name, len(content)),
                "path": name,
            }
            if is_large(name):
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": digest, "size": entry["size"], "pointerSize": 132}
            entries.append(entry)
        start = int(query.get("cursor", "0"))
        headers = {}
        if start + self.hub.page < len(entries):
            following = f"{self.hub.url}/api/datasets/{path}"
            following += f"?recursive=true&cursor={start + self.hub.page}"
            headers["Link"] = f'<{following}>; rel="next"'
        self._json(entries[start : start + self.hub.page], headers)

    # ------------------------------------------------------------------ files

    def _resolve(self, owner: str, name: str, path: str) -> None:
        repository = self._repository(owner, name)
        if repository is None:
            return self._error(404, "RepoNotFound")
        content = repository.files.get(path)
        if content is None:
            return self._error(404, "EntryNotFound", {"X-Repo-Commit": repository.commit})
        headers = {"X-Repo-Commit": repository.commit}
        if not is_large(path):
            return self._send(path, content, headers | {"ETag": f'"{git_name(content)}"'})
        digest = hashlib.sha256(content).hexdigest()
        headers["X-Linked-Etag"] = f'"{digest}"'
        headers["X-Linked-Size"] = str(len(content))
        headers["Location"] = f"{self.hub.storage_url}/storage/{digest}"
        headers["Content-Length"] = "0"
        return self._head(302, headers)

    def _stored(self, digest: str) -> None:
        for repository in self.hub.repositories.values():
            for path, content in repository.files.items():
                if is_large(path) and hashlib.sha256(content).hexdigest() == digest:
                    return self._send(path, content, {"ETag": f'"{digest}"'})
        return self._error(404, "EntryNotFound")

    def _send(self, path: str, content: bytes, headers: dict[str, str]) -> None:
        kind = None if self.command == "HEAD" else self.hub.fault(path)
        if kind in ("500", "404"):
            return self._error(int(kind), "")
        if kind == "hang":
            return self.hub.wait(60)
        start = 0
        wanted = self.headers.get("Range", "")
        if wanted.startswith("bytes=") and kind != "no ranges":
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        status = 206 if start else 200
        body = content[start:]
        if kind == "damage":
            middle = len(body) // 2
            body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        if kind == "longer":
            body += b"more" * 1000
        headers["Content-Length"] = str(len(body))
        headers["Accept-Ranges"] = "bytes"
        self._head(status, headers)
        if self.command == "HEAD":
            return None
        if kind in ("cut", "no ranges"):
            body = body[: len(body) // 2]
            self.close_connection = True
        if kind == "trickle":
            return self._trickle(body)
        self.wfile.write(body)
        return None

    def _trickle(self, body: bytes) -> None:
        for i in range(0, len(body), 100):
            self.wfile.write(body[i : i + 100])
            self.wfile.flush()
            self.hub.wait(0.1)

    # ------------------------------------------------------------------ answers

    def _json(self, value: object, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        self._head(
            200,
            {
                "Content-Type": "application/json",
                "Content-Length": str(len(body)),
                **(headers or {}),
            },
        )
        if self.command != "HEAD":
            self.wfile.write(body)

    def _error(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        said = {"Content-Length": "0", **(headers or {})}
        if code:
            said["X-Error-Code"] = code
        self._head(status, said)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
