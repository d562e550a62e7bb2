"""Download of one file: resumed after an interruption, one process at a time, bounded in time."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from resnet_tasks.backbone.weights_request import WeightsRequest
from resnet_tasks.errors import WeightsError

READ_SECONDS = 20.0
"""Seconds that a single read of a running download may block."""
WINDOW_SECONDS = 30.0
LEAST_BYTES = 64 * 1024
"""Fewest bytes per window; a slower download would take hours and is stopped."""
TOTAL_SECONDS = 3600.0
"""Longest duration of a download in seconds; the next attempt resumes where it stopped."""
ATTEMPTS = 5
"""Number of connections that are opened for one download."""
_CHUNK = 1 << 20


class StallDetector:
    """Watchdog that stops a download which is too slow or takes too long.

    Args:
        num_bytes: Bytes that are already on disk.
        window: Seconds in which at least `LEAST_BYTES` must arrive; default: `WINDOW_SECONDS`.
    """

    def __init__(self, num_bytes: int, window: float | None = None) -> None:
        self._window = WINDOW_SECONDS if window is None else window
        self._start = self._mark = time.monotonic()
        self._num_bytes = num_bytes

    def check(self, num_bytes: int) -> None:
        """Compare the current size of the file with the size at the start of the window.

        Args:
            num_bytes: Bytes on disk now.

        Raises:
            TimeoutError: If too few bytes came in the last window, or the download exceeds
                `TOTAL_SECONDS`.
        """
        now = time.monotonic()
        if now - self._start > TOTAL_SECONDS:
            raise TimeoutError(f"not done after {TOTAL_SECONDS:.0f} s")
        if now - self._mark >= self._window:
            came = abs(num_bytes - self._num_bytes)  # smaller if another process started over
            if came < LEAST_BYTES:
                raise TimeoutError(f"{came} bytes in {now - self._mark:.1f} s")
            self._mark, self._num_bytes = now, num_bytes


def download(url: str, part: Path, request: WeightsRequest) -> None:
    """Download the content of `url` into `part` and resume from the bytes that `part` holds.

    The existing bytes are kept only if the server confirms that they are the beginning of the same
    content (`If-Range` with the `ETag` or date that it sent before). Otherwise the download starts
    over.

    Raises:
        WeightsError: If the server refuses, is too slow or breaks off too often, or the file cannot
            be written. Received bytes are kept for the next attempt.
    """
    stall_detector = StallDetector(_get_size(part))
    broken: BaseException | None = None
    for _ in range(ATTEMPTS):
        try:
            if _try_download(url, part, request, stall_detector):
                return
            broken = EOFError(f"the connection ended after {_get_size(part)} bytes, which are kept")
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 416:  # `part` is longer than the server's content
                    discard_partial(part)
                    continue
                raise WeightsError(
                    f"{request}: the server answers {error.code} {error.reason}; check the "
                    f"address, or {request.remedy}"
                ) from error
        except TimeoutError as error:
            broken = error
            break
        except (OSError, HTTPException) as error:
            broken = error
    raise make_unreachable_error(url, request, broken or OSError("the server changes its content"))


def discard_partial(part: Path) -> None:
    """Remove a partial download and its notes."""
    part.unlink(missing_ok=True)
    _get_notes_path(part).unlink(missing_ok=True)


@contextmanager
def lock_download(part: Path, request: WeightsRequest) -> Iterator[None]:
    """Hold the lock on `part`, and wait for another process as long as its download progresses.

    The operating system owns the lock and releases it when the process that holds it dies.

    Raises:
        WeightsError: If another process holds the lock and its download does not progress.
    """
    lock = FileLock(part.parent / ".locks" / f"{part.name}.lock")
    stall_detector = StallDetector(_get_size(part))
    try:
        (part.parent / ".locks").mkdir(parents=True, exist_ok=True)
        while not lock.is_locked:
            try:
                lock.acquire(timeout=0.5)
            except Timeout:
                stall_detector.check(_get_size(part))
    except TimeoutError as error:
        raise WeightsError(
            f"{request}: another process is fetching the same file, but makes no progress "
            f"({error}); stop it, then start again"
        ) from error
    except OSError as error:
        raise _make_unwritable_error(part, request, error) from error
    try:
        yield
    finally:
        lock.release()


def make_unreachable_error(url: str, request: WeightsRequest, error: BaseException) -> WeightsError:
    """Create the error for a server that cannot be reached."""
    parts = urlsplit(url)
    return WeightsError(
        f"{request} is not in the cache and cannot be fetched from "
        f"{parts.scheme}://{parts.netloc} ({get_first_line(error)}); {request.remedy}"
    )


def get_first_line(error: BaseException) -> str:
    """Return the first line of an error's message, at most 120 characters."""
    lines = str(error).strip().splitlines()
    return lines[0][:120] if lines else type(error).__name__


def _try_download(
    url: str, part: Path, request: WeightsRequest, stall_detector: StallDetector
) -> bool:
    """Open one connection, append its content to `part`, and return whether `part` is complete."""
    headers = {}
    have, validator = _get_size(part), _read_validator(part, url)
    if have and validator:
        headers = {"Range": f"bytes={have}-", "If-Range": validator}
    http_request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(http_request, timeout=READ_SECONDS) as answer:
        goes_on = answer.status == 206 and _starts_at(answer, have)
        if answer.status == 206 and not goes_on:
            discard_partial(part)
            return False
        length = answer.headers.get("Content-Length")
        total = None if length is None else int(length) + (have if goes_on else 0)
        if not goes_on:
            discard_partial(part)
            _write_notes(part, url, answer, request)
        _append(answer, part, request, stall_detector)
    return total is None or _get_size(part) == total


def _append(
    answer: HTTPResponse, part: Path, request: WeightsRequest, stall_detector: StallDetector
) -> None:
    try:
        stream = part.open("ab")
    except OSError as error:
        raise _make_unwritable_error(part, request, error) from error
    with stream:
        num_bytes = stream.tell()
        while chunk := answer.read1(_CHUNK):
            try:
                stream.write(chunk)
                stream.flush()
            except OSError as error:
                raise _make_unwritable_error(part, request, error) from error
            num_bytes += len(chunk)
            stall_detector.check(num_bytes)


def _starts_at(answer: HTTPResponse, position: int) -> bool:
    return (answer.headers.get("Content-Range") or "").startswith(f"bytes {position}-")


def _get_notes_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _write_notes(part: Path, url: str, answer: HTTPResponse, request: WeightsRequest) -> None:
    etag = answer.headers.get("ETag")
    # If-Range accepts strong ETags only; a weak one (W/) does not promise identical bytes.
    strong = etag if etag and not etag.startswith("W/") else None
    notes = {"url": url, "validator": strong or answer.headers.get("Last-Modified")}
    try:
        _get_notes_path(part).write_text(json.dumps(notes), encoding="utf-8")
    except OSError as error:
        raise _make_unwritable_error(part, request, error) from error


def _read_validator(part: Path, url: str) -> str | None:
    try:
        notes: Any = json.loads(_get_notes_path(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(notes, dict) or notes.get("url") != url:
        return None
    validator = notes.get("validator")
    return validator if isinstance(validator, str) else None


def _get_size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _make_unwritable_error(part: Path, request: WeightsRequest, error: OSError) -> WeightsError:
    return WeightsError(
        f"{request}: {part} cannot be written ({error.strerror or error}); free disk space or set "
        "another folder with TORCH_HOME"
    )
