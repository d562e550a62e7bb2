"""One file from a URL: gone on with where it broke off, one process at a time, never endless."""

from __future__ import annotations

import hashlib
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
"""How long a running download may stand still."""
WINDOW_SECONDS = 30.0
LEAST_BYTES = 64 * 1024
"""A download that brings less in a window is given up; it would take hours."""
TOTAL_SECONDS = 3600.0
"""How long a download may take in all; the next one goes on where it stopped."""
ATTEMPTS = 5
"""How often a connection that breaks off is opened anew."""
_CHUNK = 1 << 20


class StallDetector:
    """Notices a download that creeps or takes too long.

    Args:
        num_bytes: Bytes that are there already.
        window: Seconds in which some bytes must arrive; default `WINDOW_SECONDS`.
    """

    def __init__(self, num_bytes: int, window: float | None = None) -> None:
        self._window = WINDOW_SECONDS if window is None else window
        self._start = self._mark = time.monotonic()
        self._num_bytes = num_bytes

    def check(self, num_bytes: int) -> None:
        """Takes note of `num_bytes` bytes.

        Raises:
            TimeoutError: If too few came in the last window, or the whole takes too long.
        """
        now = time.monotonic()
        if now - self._start > TOTAL_SECONDS:
            raise TimeoutError(f"not done after {TOTAL_SECONDS:.0f} s")
        if now - self._mark >= self._window:
            came = abs(num_bytes - self._num_bytes)  # another process may have begun anew
            if came < LEAST_BYTES:
                raise TimeoutError(f"{came} bytes in {now - self._mark:.1f} s")
            self._mark, self._num_bytes = now, num_bytes


def download(url: str, part: Path, request: WeightsRequest) -> None:
    """Brings the whole content of `url` into `part`, going on with what is there.

    What is there is used only where the server confirms that it is the beginning of the same
    content (`If-Range` with the `ETag` or date it gave before), else it is fetched anew.

    Raises:
        WeightsError: If the server refuses, breaks off again and again or creeps, or the file
            cannot be written. What came is kept for the next time.
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
                if error.code == 416:  # what is there is longer than what the server has
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
    """Removes what came so far and what is known of it."""
    part.unlink(missing_ok=True)
    _get_notes_path(part).unlink(missing_ok=True)


@contextmanager
def lock_download(part: Path, request: WeightsRequest) -> Iterator[None]:
    """Holds the right to write `part`; waits for another process as long as that gets on.

    The lock is the operating system's, which frees it when its holder dies.

    Raises:
        WeightsError: If another process holds it and does not get on.
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
            f"{request}: another process is fetching the same file, but does not get on "
            f"({error}); stop it, then start again"
        ) from error
    except OSError as error:
        raise _make_unwritable_error(part, request, error) from error
    try:
        yield
    finally:
        lock.release()


def compute_sha256(file: Path) -> str:
    """Hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def make_unreachable_error(url: str, request: WeightsRequest, error: BaseException) -> WeightsError:
    """The sentence for a server that cannot be had."""
    parts = urlsplit(url)
    return WeightsError(
        f"{request} is not in the cache and cannot be fetched from "
        f"{parts.scheme}://{parts.netloc} ({get_first_line(error)}); {request.remedy}"
    )


def get_first_line(error: BaseException) -> str:
    """What an error says, in one short line."""
    lines = str(error).strip().splitlines()
    return lines[0][:120] if lines else type(error).__name__


def _try_download(
    url: str, part: Path, request: WeightsRequest, stall_detector: StallDetector
) -> bool:
    """One connection; whether the content is complete now."""
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
    strong = etag if etag and not etag.startswith("W/") else None  # If-Range takes strong ones
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
        f"{request}: {part} cannot be written ({error.strerror or error}); make room or name "
        "another folder with TORCH_HOME"
    )
