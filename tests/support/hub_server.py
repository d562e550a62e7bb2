"""A small server on loopback that speaks as much of the hub's protocol as downloads and pushes use.

Downloads: HEAD and GET of `/OWNER/NAME/resolve/REVISION/FILE`. Pushes: create, preupload, LFS batch
and PUT, commit; every commit is a whole set of files under a digest of its own.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 1000
"""Bytes from which on a file goes by LFS."""


@dataclass
class Repository:
    """What was pushed to one repository."""

    private: bool
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=lambda: [(COMMIT, {})])

    def files(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Commit and files of a revision."""
        if revision == "main":
            return self.commits[-1]
        return next((each for each in self.commits if each[0] == revision), None)


class Server:
    """Files by path below http://127.0.0.1; every request is counted."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.tokens: set[str] = set()
        self.closing = threading.Event()
        self.cut_short = False
        self.other_etag = False
        self.stop_after: int | None = None
        self.refusal: tuple[int, str] | None = None
        self.hang_up_at = ""  # the connection ends at requests that hold this
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def do_HEAD(self) -> None:
                outer.answer_file(self, body=False)

            def do_GET(self) -> None:
                if self.path.startswith("/api/"):
                    outer.answer(self, b"")
                else:
                    outer.answer_file(self, body=True)

            def do_POST(self) -> None:
                self._with_body()

            def do_PUT(self) -> None:
                self._with_body()

            def _with_body(self) -> None:
                if "chunked" in self.headers.get("Transfer-Encoding", ""):
                    content = b""
                    while size := int(self.rfile.readline(), 16):
                        content += self.rfile.read(size)
                        self.rfile.readline()
                else:
                    content = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                outer.answer(self, content)

            def log_message(self, *_: object) -> None:
                """Nothing on the test's output."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def add(self, repo: str, name: str, content: bytes) -> None:
        self.files[f"/{repo}/resolve/main/{name}"] = content

    def close(self) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    # --- downloads

    def answer_file(self, request: BaseHTTPRequestHandler, *, body: bool) -> None:
        self.requests.append(f"{request.command} {request.path}")
        if self._is_cut(request):
            return
        if self.refusal is not None:
            self._refuse(request, *self.refusal)
            return
        commit, content = self._held(request.path)
        if content is None:
            repo = request.path.split("/resolve/")[0]
            is_known = any(each.startswith(repo + "/") for each in self.files)
            self._refuse(request, 404, "EntryNotFound" if is_known else "RepoNotFound")
            return
        request.send_response(200)
        stated = b"other" if self.other_etag else content
        request.send_header("ETag", f'"{hashlib.sha256(stated).hexdigest()}"')
        request.send_header("X-Repo-Commit", commit)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if body:
            half = len(content) // 2 if self.cut_short else len(content)
            request.wfile.write(content[: self.stop_after or half])
            if self.stop_after:
                request.wfile.flush()
                self.closing.wait(20)

    def _held(self, path: str) -> tuple[str, bytes | None]:
        if path in self.files:
            return COMMIT, self.files[path]
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        repository = self.repositories.get(found[1]) if found else None
        state = repository.files(found[2]) if found and repository else None
        return (state[0], state[1].get(found[3])) if found and state else (COMMIT, None)

    # --- the programming interface

    def answer(self, request: BaseHTTPRequestHandler, content: bytes) -> None:
        path = request.path.split("?")[0]
        self.requests.append(f"{request.command} {path}")
        if self._is_cut(request):
            return
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.refusal is not None:
            self._refuse(request, *self.refusal)
        elif path == "/api/validate-yaml":
            self._reply(request, {"errors": [], "warnings": []})
        elif path.startswith("/storage/"):
            self.large[path.removeprefix("/storage/")] = content
            self._reply(request, {})
        elif request.command == "POST" and token not in self.tokens:
            self._refuse(request, 401, "")
        elif path == "/api/repos/create":
            self._create(request, json.loads(content))
        else:
            self._repository(request, path, content, token)

    def _create(self, request: BaseHTTPRequestHandler, asked: dict[str, Any]) -> None:
        repo = f"{asked['organization']}/{asked['name']}"
        if repo in self.repositories:
            self._reply(request, {"url": f"{self.url}/{repo}"}, status=409)
            return
        # The client's versions differ in how they say it.
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.repositories[repo] = Repository(private)
        self._reply(request, {"url": f"{self.url}/{repo}"})

    def _repository(
        self, request: BaseHTTPRequestHandler, path: str, content: bytes, token: str
    ) -> None:
        found = re.fullmatch(
            r"(?:/api/models)?/([^/]+/[^/.]+)(?:\.git)?(?:/(revision|preupload|commit|info)/?(.*))?",
            path,
        )
        repository = self.repositories.get(found[1]) if found else None
        if found is None or repository is None or (repository.private and not token):
            self._refuse(request, 404, "RepoNotFound")
        elif found[2] in (None, "revision"):
            self._tell(request, found[1], repository, found[3] or "main")
        elif found[2] == "preupload":
            files = [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if each["size"] >= LARGE else "regular",
                    "shouldIgnore": False,
                }
                for each in json.loads(content)["files"]
            ]
            self._reply(request, {"files": files})
        elif found[2] == "info":
            objects = [
                {
                    **each,
                    "actions": {"upload": {"href": f"{self.url}/storage/{each['oid']}"}},
                }
                for each in json.loads(content)["objects"]
            ]
            self._reply(request, {"transfer": "basic", "objects": objects})
        else:
            self._commit(request, found[1], repository, content)

    def _tell(
        self, request: BaseHTTPRequestHandler, repo: str, repository: Repository, revision: str
    ) -> None:
        state = repository.files(revision)
        if state is None:
            self._refuse(request, 404, "RevisionNotFound")
            return
        siblings = []
        for name, content in state[1].items():
            told: dict[str, Any] = {"rfilename": name, "size": len(content)}
            if len(content) >= LARGE:
                digest = hashlib.sha256(content).hexdigest()
                told["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
            siblings.append(told)
        about = {"id": repo, "sha": state[0], "private": repository.private, "siblings": siblings}
        self._reply(request, about)

    def _commit(
        self, request: BaseHTTPRequestHandler, repo: str, repository: Repository, content: bytes
    ) -> None:
        files = dict(repository.commits[-1][1])
        for line in content.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        commit = hashlib.sha1(content).hexdigest()
        repository.commits.append((commit, files))
        url = f"{self.url}/{repo}/commit/{commit}"
        self._reply(request, {"commitUrl": url, "commitOid": commit})

    def _is_cut(self, request: BaseHTTPRequestHandler) -> bool:
        if self.hang_up_at and self.hang_up_at in request.path:
            request.close_connection = True
            request.connection.close()
            return True
        return False

    @staticmethod
    def _refuse(request: BaseHTTPRequestHandler, status: int, code: str) -> None:
        request.send_response(status)
        request.send_header("X-Error-Code", code)
        request.send_header("X-Repo-Commit", COMMIT)
        request.send_header("Content-Length", "0")
        request.end_headers()

    @staticmethod
    def _reply(request: BaseHTTPRequestHandler, value: object, *, status: int = 200) -> None:
        text = json.dumps(value).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(text)))
        request.end_headers()
        request.wfile.write(text)


def point_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the hub's client talk to `url`."""
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
