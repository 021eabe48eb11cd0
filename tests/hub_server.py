"""A hub for tests: what huggingface_hub calls to fetch repositories, to make one and to send a commit, over HTTP.

Tokens: "writer" may make repositories and send to them, "reader" may look, others are unknown. Private repositories are
not there for those who have no token. Large files go through the LFS protocol (basic transfer), as on the hub.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_REPO = r"(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)"
_ROUTES = [
    ("GET", rf"/api/{_REPO}/tree/[^/]+", "tree"),
    ("GET", rf"/api/{_REPO}(/revision/[^/]+)?", "info"),
    ("GET", r"/(?P<kind>datasets/)?(?P<name>[^/]+/[^/]+)/resolve/[^/]+/(?P<file>.+)", "resolve"),
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/validate-yaml", "validate"),
    ("POST", rf"/api/{_REPO}/preupload/main", "preupload"),
    ("POST", r"/(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "batch"),
    ("PUT", r"/lfs/(?P<oid>\w+)", "put"),
    ("POST", r"/lfs/(?P<oid>\w+)/verify", "verify"),
    ("POST", rf"/api/{_REPO}/commit/main", "commit"),
]


@dataclass
class Repo:
    """A repository: its files, and how many commits it has had."""

    files: dict[str, bytes] = field(default_factory=dict)
    private: bool = False
    commits: int = 1

    @property
    def sha(self) -> str:
        return f"{self.commits:040x}"


@dataclass
class Hub:
    """The state of a hub; `repos` by (models or datasets, OWNER/NAME)."""

    endpoint: str = ""
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_HEAD(self):
        self._answer("GET", with_body=False)

    def do_GET(self):
        self._answer("GET")

    def do_POST(self):
        self._answer("POST")

    def do_PUT(self):
        self._answer("PUT")

    def _answer(self, method, with_body=True):
        self.with_body = with_body
        length = int(self.headers.get("Content-Length") or 0)
        chunked = self.headers.get("Transfer-Encoding") == "chunked"
        self.body = b"".join(self._chunks()) if chunked else self.rfile.read(length)
        path = self.path.partition("?")[0]
        self.hub.calls.append(f"{self.command} {path}")
        for wanted, pattern, name in _ROUTES:
            if method == wanted and (found := re.fullmatch(pattern, path)):
                return getattr(self, f"_{name}")(**found.groupdict())
        return self._send(404, {"error": "no such call"})

    def _chunks(self):
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _send(self, status, content, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.with_body:
            self.wfile.write(body)

    @property
    def token(self):
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

    def _repo(self, kind, name):
        repo = self.hub.repos.get((kind, name))
        if repo is None or (repo.private and self.token not in ("writer", "reader")):
            self._send(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            return None
        return repo

    def _may_write(self):
        status = {"writer": 200, "reader": 403}.get(self.token, 401)
        if status != 200:
            self._send(status, {"error": "Forbidden" if status == 403 else "Invalid username or password."})
        return status == 200

    # --- fetch

    def _info(self, kind, name):
        if (repo := self._repo(kind, name)) is not None:
            files = [{"rfilename": file} for file in repo.files]
            self._send(200, {"id": name, "sha": repo.sha, "private": repo.private, "siblings": files})

    def _tree(self, kind, name):
        if (repo := self._repo(kind, name)) is not None:
            entries = [
                {"type": "file", "path": file, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
                for file, body in repo.files.items()
            ]
            self._send(200, entries)

    def _resolve(self, kind, name, file):
        if (repo := self._repo("datasets" if kind else "models", name)) is None:
            return
        if file not in repo.files:
            self._send(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound", X_Repo_Commit=repo.sha)
            return
        tag = hashlib.sha1(repo.files[file]).hexdigest()
        self._send(200, repo.files[file], ETag=f'"{tag}"', X_Repo_Commit=repo.sha)

    # --- send

    def _create(self):
        if not self._may_write():
            return
        given = json.loads(self.body)
        name, kind = f"{given['organization']}/{given['name']}", f"{given.get('type') or 'model'}s"
        status = 409 if (kind, name) in self.hub.repos else 200
        private = given.get("private") or given.get("visibility") == "private"
        self.hub.repos.setdefault((kind, name), Repo({".gitattributes": b""}, bool(private)))
        self._send(status, {"url": f"{self.hub.endpoint}/{name}", "name": name})

    def _validate(self):
        self._send(200, {"errors": [], "warnings": []})

    def _preupload(self, kind, name):
        if self._may_write() and self._repo(kind, name) is not None:
            given = json.loads(self.body)["files"]
            modes = [(item["path"], "lfs" if item["path"].endswith(".safetensors") else "regular") for item in given]
            found = [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes]
            self._send(200, {"files": found})

    def _batch(self, name):
        objects = []
        for item in json.loads(self.body)["objects"]:
            place = f"{self.hub.endpoint}/lfs/{item['oid']}"
            actions = {"upload": {"href": place}, "verify": {"href": f"{place}/verify"}}
            objects.append({**item, "actions": actions})
        self._send(200, {"transfer": "basic", "objects": objects})

    def _put(self, oid):
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.hub.stored[oid] = self.body
        self._send(200, b"")

    def _verify(self, oid):
        self._send(200 if oid in self.hub.stored else 404, {})

    def _commit(self, kind, name):
        if not self._may_write() or (repo := self._repo(kind, name)) is None:
            return
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                repo.files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                repo.files[value["path"]] = self.hub.stored[value["oid"]]
            elif item["key"] == "deletedFile":
                del repo.files[value["path"]]
        repo.commits += 1
        url = f"{self.hub.endpoint}/{name}/commit/{repo.sha}"
        self._send(200, {"success": True, "commitOid": repo.sha, "commitUrl": url, "hookOutput": ""})

    def log_message(self, *args):
        pass


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """Serve an empty hub on a free port."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
