"""Downloads that break off, creep, meet others or bring the wrong thing; from a local server."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from resnet_tasks.backbone import file_transfer as transfer
from resnet_tasks.backbone.downloads import download_file
from resnet_tasks.backbone.weights_request import WeightsRequest
from resnet_tasks.errors import WeightsError

CONTENT = bytes(range(256)) * 1024
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class FileServer:
    """One file, with ranges and every fault of a real network."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.next_content = b""  # of the connections after the first
        self.ranges: list[str | None] = []
        self.sent = 0
        self.cuts: list[int] = []  # connections to come end after so many bytes
        self.knows_ranges = True
        self.status = 200
        self.pause = 0.0  # between pieces
        self.piece = 1 << 16
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.send_response(200)
                self.end_headers()

            def do_GET(self) -> None:
                asked = self.headers.get("Range")
                outer.ranges.append(asked)
                tag = f'"{hashlib.sha256(outer.content).hexdigest()}"'
                start = 0
                if asked and outer.knows_ranges:
                    start = int(asked.removeprefix("bytes=").rstrip("-"))
                body = outer.content[start:]
                if outer.status == 200 and start > 0 and not body:
                    self.send_response(416)
                    self.end_headers()
                    return
                self.send_response(206 if start and outer.status == 200 else outer.status)
                self.send_header("ETag", tag)
                self.send_header("Content-Length", str(len(body)))
                if start:
                    size = len(outer.content)
                    self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
                self.end_headers()
                outer.content = outer.next_content or outer.content
                if outer.cuts:
                    body = body[: outer.cuts.pop(0)]
                for position in range(0, len(body), outer.piece):
                    outer.sent += len(body[position : position + outer.piece])
                    try:
                        self.wfile.write(body[position : position + outer.piece])
                        self.wfile.flush()
                    except OSError:
                        return
                    time.sleep(outer.pause)

            def log_message(self, *_: object) -> None:
                """Nothing on the test's output."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/net.pth"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FileServer]:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    made = FileServer()
    yield made
    made.close()


def fetch(server: FileServer, sha256: str = SHA256) -> Path:
    return download_file(server.url, sha256, request=WeightsRequest(server.url))


def part_of(server: FileServer) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / f"{SHA256[:16]}-net.pth.part"


def files_left(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir() if each.is_file())


def test_a_connection_that_breaks_off_is_gone_on_with(server: FileServer) -> None:
    server.cuts = [100_000, 50_000]
    file = fetch(server)
    assert file.read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=100000-", "bytes=150000-"]
    assert server.sent == len(CONTENT)
    assert files_left(file.parent) == [file.name]


def test_the_next_start_goes_on_where_the_last_one_stopped(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "ATTEMPTS", 1)
    server.cuts = [70_000]
    with pytest.raises(WeightsError, match=r"ended after 70000 bytes, which are kept"):
        fetch(server)
    assert part_of(server).stat().st_size == 70_000
    assert fetch(server).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=70000-"]


@pytest.mark.parametrize("reason", ["changed", "no ranges", "too long"])
def test_a_beginning_that_does_not_belong_is_dropped(
    reason: str, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(transfer, "ATTEMPTS", 1)
        if reason == "changed":
            server.content = b"old" * 50_000
        server.cuts = [70_000]
        with pytest.raises(WeightsError):
            fetch(server)
    server.content, server.knows_ranges = CONTENT, reason != "no ranges"
    if reason == "too long":
        part_of(server).write_bytes(CONTENT)
    assert fetch(server).read_bytes() == CONTENT
    assert files_left(part_of(server).parent) == [f"{SHA256[:16]}-net.pth"]


def test_content_that_changes_between_two_connections_is_fetched_anew(server: FileServer) -> None:
    server.content, server.cuts = b"old" * 50_000, [70_000]
    server.next_content = CONTENT
    assert fetch(server).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=70000-", None]


def test_content_that_changes_until_the_last_connection_is_not_kept(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "ATTEMPTS", 2)
    server.content, server.cuts = b"old" * 50_000, [70_000]
    server.next_content = CONTENT
    with pytest.raises(WeightsError, match="the server changes its content"):
        fetch(server)
    assert files_left(part_of(server).parent) == []


def test_a_damaged_beginning_is_found_by_the_digits_and_fetched_anew(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(transfer, "ATTEMPTS", 1)
        server.cuts = [70_000]
        with pytest.raises(WeightsError):
            fetch(server)
    part_of(server).write_bytes(b"x" * 70_000)
    assert fetch(server).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=70000-", None]


def test_wrong_content_is_not_kept(server: FileServer) -> None:
    with pytest.raises(WeightsError, match=SHA256):
        fetch(server, "0" * 64)
    assert files_left(part_of(server).parent) == []


def test_a_damaged_file_in_the_cache_is_fetched_anew(server: FileServer) -> None:
    file = fetch(server)
    file.write_bytes(CONTENT[:-1])
    assert fetch(server).read_bytes() == CONTENT


def test_a_creeping_server_is_given_up(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "WINDOW_SECONDS", 0.2)
    server.piece, server.pause = 10, 0.02
    start = time.perf_counter()
    with pytest.raises(WeightsError, match=r"\d+ bytes in \d+\.\d s"):
        fetch(server)
    assert time.perf_counter() - start < 30


def test_a_server_that_stops_is_given_up(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "READ_SECONDS", 0.2)
    server.piece, server.pause = 100_000, 15.0
    start = time.perf_counter()
    with pytest.raises(WeightsError, match="timed out"):
        fetch(server)
    assert time.perf_counter() - start < 12


def test_the_whole_is_bounded_too(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "TOTAL_SECONDS", 0.3)
    server.piece, server.pause = 1000, 0.02
    with pytest.raises(WeightsError, match="not done after"):
        fetch(server)


@pytest.mark.parametrize("status", [401, 403, 404, 500, 503])
def test_refusals_are_told_with_their_number(status: int, server: FileServer) -> None:
    server.status = status
    with pytest.raises(WeightsError, match=f"answers {status}") as caught:
        fetch(server)
    assert "\n" not in str(caught.value)


def test_a_cache_that_cannot_be_written(
    server: FileServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match=r"cannot be written.*TORCH_HOME"):
        fetch(server)


def test_of_two_processes_one_downloads_and_both_have_it(server: FileServer) -> None:
    server.piece, server.pause = 1 << 15, 0.2
    code = (
        "import sys; from resnet_tasks.backbone.downloads import download_file\n"
        "from resnet_tasks.backbone.weights_request import WeightsRequest\n"
        "print(download_file(sys.argv[1], sys.argv[2], request=WeightsRequest('a')).stat().st_size)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, server.url, SHA256], stdout=subprocess.PIPE, text=True
    )
    while not server.ranges:
        assert other.poll() is None
        time.sleep(0.02)
    assert fetch(server).read_bytes() == CONTENT
    assert server.ranges == [None]
    assert other.communicate()[0] == f"{len(CONTENT)}\n"


def test_the_lock_of_a_killed_process_blocks_nobody(server: FileServer) -> None:
    part = part_of(server)
    code = (
        "import sys, time; from pathlib import Path\n"
        "from resnet_tasks.backbone.weights_request import WeightsRequest\n"
        "from resnet_tasks.backbone.file_transfer import lock_download\n"
        "with lock_download(Path(sys.argv[1]), WeightsRequest('a')): print('held', flush=True); "
        "time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(part)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == "held\n"
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    start = time.perf_counter()
    assert fetch(server).read_bytes() == CONTENT
    assert time.perf_counter() - start < 20


def test_a_holder_that_does_not_get_on_is_told(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "WINDOW_SECONDS", 0.2)
    locks = part_of(server).parent / ".locks"
    locks.mkdir(parents=True)
    with (
        FileLock(locks / f"{part_of(server).name}.lock"),
        pytest.raises(WeightsError, match="another process is fetching"),
    ):
        fetch(server)
