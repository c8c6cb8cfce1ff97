"""A hub on the loopback interface, with just the endpoints that huggingface_hub asks."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants


class Hub(ThreadingHTTPServer):
    """One repository; `cuts` are the byte counts after which the next downloads of weights break off."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repo = self.commit = ""
        self.files: dict[str, bytes] = {}
        self.licence: str | None = "mit"
        self.refusal: tuple[int, str] | None = None
        self.cuts: list[int] = []
        self.fetched: list[tuple[str, str | None]] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no news."""


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(body=True)

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        hub = self.server
        if hub.refusal is not None or hub.repo not in path:
            status, code = hub.refusal or (404, "RepoNotFound")
            return self.reply(status, b"{}", {"X-Error-Code": code})
        if path.startswith(f"/api/models/{hub.repo}/tree/"):
            tree = [{"type": "file", "path": name, "size": len(data), "oid": name} for name, data in hub.files.items()]
            return self.reply(200, json.dumps(tree).encode())
        if path.startswith(f"/api/models/{hub.repo}/revision/"):
            if path.rpartition("/")[2] not in ("main", "v1", hub.commit):
                return self.reply(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            card = {"license": hub.licence} if hub.licence else {}
            info = {
                "id": hub.repo,
                "sha": hub.commit,
                "cardData": card,
                "siblings": [{"rfilename": name} for name in hub.files],
            }
            return self.reply(200, json.dumps(info).encode())
        return self.file(path.rpartition("/")[2], body)

    def file(self, name: str, body: bool) -> None:
        data = self.server.files[name]
        headers = {"X-Repo-Commit": self.server.commit, "ETag": f'"{name}-etag"', "Accept-Ranges": "bytes"}
        if not body:
            return self.reply(200, data, headers, body=False)
        span = self.headers.get("Range")
        self.server.fetched.append((name, span))
        start = int(span.removeprefix("bytes=").rstrip("-")) if span else 0
        if span:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        limit = self.server.cuts.pop(0) if self.server.cuts and name == "model.safetensors" else None
        return self.reply(206 if span else 200, data[start:], headers, limit=limit)

    def reply(
        self,
        status: int,
        data: bytes,
        headers: dict[str, str] | None = None,
        body: bool = True,
        limit: int | None = None,
    ) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(data[:limit])
        if limit is not None:
            self.wfile.flush()
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def hub_on_loopback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        # What arrives is kept in pieces of this size, 10 MB by default.
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
        # Waiting a second before each of five attempts is right for a network, not for a test.
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        yield server
        server.shutdown()
