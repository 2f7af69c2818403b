"""A local stand-in of what huggingface_hub calls to upload: repositories, LFS, commits."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repository:
    """What lies on the stand-in.

    Args:
        private: Whether it was made so.
        files: Bytes by path, after a commit.
        commits: Messages.
    """

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)


class UploadHub:
    """Takes uploads on a free port of this machine; checkpoints go by LFS.

    Args:
        token: That it accepts.
    """

    def __init__(self, token: str) -> None:
        self.token = token
        self.repositories: dict[str, Repository] = {}
        self.requests: list[tuple[str, str, str | None]] = []  # method, path, Authorization
        # (beginning of a path) -> (status, message): refused from now on.
        self.refused: dict[str, tuple[int, str]] = {}
        self.objects: dict[str, bytes] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                path = self.path.split("?")[0]
                if path == "/api/agent-harnesses":  # the library's own, once in a process
                    self.send_error(404)
                    return
                hub.requests.append((self.command, path, self.headers.get("Authorization")))
                status, headers, content = hub._respond(
                    self.command, path, self.headers.get("Authorization"), body
                )
                data = json.dumps(content).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = _answer  # noqa: N815  (as the library calls them)
            do_POST = _answer  # noqa: N815
            do_PUT = _answer  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        return Handler

    def _respond(
        self, method: str, path: str, authorization: str | None, body: bytes
    ) -> tuple[int, dict[str, str], Any]:
        for beginning, (status, message) in self.refused.items():
            if path.startswith(beginning):
                return status, {"X-Error-Message": message}, {"error": message}
        if path.startswith("/objects/"):  # the storage, whose addresses are signed
            assert authorization is None
            self.objects[path.rpartition("/")[2]] = body
            return 200, {"ETag": "x"}, {}
        if authorization != f"Bearer {self.token}":
            message = "Invalid credentials in Authorization header"
            return 401, {"X-Error-Message": message}, {"error": message}
        if path == "/api/validate-yaml":
            return 200, {}, {"errors": [], "warnings": [{"message": "no licence"}]}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path.endswith("/info/lfs/objects/batch"):
            return 200, {}, self._batch(json.loads(body))
        parts = path.removeprefix("/api/models/").split("/")
        name, action = "/".join(parts[:2]), "/".join(parts[2:3])
        if name not in self.repositories:
            return 404, {"X-Error-Code": "RepoNotFound"}, {"error": "Repository not found"}
        if action == "preupload":
            return 200, {}, {"files": [_mode(file) for file in json.loads(body)["files"]]}
        if action == "commit":
            return 200, {}, self._commit(name, body)
        return 200, {}, {"id": name, "private": self.repositories[name].private, "sha": COMMIT}

    def _create(self, asked: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
        name = f"{asked['organization']}/{asked['name']}"
        self.repositories[name] = Repository(asked.get("visibility") == "private")
        return 200, {}, {"url": f"{self.address}/{name}", "name": name}

    def _batch(self, asked: dict[str, Any]) -> dict[str, Any]:
        objects = [
            {
                "oid": one["oid"],
                "size": one["size"],
                "actions": {"upload": {"href": f"{self.address}/objects/{one['oid']}"}},
            }
            for one in asked["objects"]
        ]
        return {"transfer": "basic", "objects": objects}

    def _commit(self, name: str, body: bytes) -> dict[str, Any]:
        repository = self.repositories[name]
        for line in body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                repository.commits.append(value["summary"])
            elif item["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            else:
                content = self.objects[value["oid"]]
                assert hashlib.sha256(content).hexdigest() == value["oid"]
                repository.files[value["path"]] = content
        return {"commitUrl": f"{self.address}/{name}/commit/{COMMIT}", "commitOid": COMMIT}


def _mode(file: dict[str, Any]) -> dict[str, Any]:
    mode = "lfs" if file["path"].endswith(".ckpt") else "regular"
    return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
