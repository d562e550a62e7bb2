"""Download of one file: resumed after an interruption, one process at a time, bounded in time.

`torch.hub.download_url_to_file` (2.14) neither resumes nor has a timeout, and huggingface_hub's
`http_get` (2.4) loses up to 10 MB with every broken connection and never stops a download that is
too slow.
"""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from resnet_tasks.backbone.weights_request import WeightsRequest
from resnet_tasks.errors import WeightsError, get_first_line
from resnet_tasks.files.digests import compute_sha256

READ_SECONDS = 20.0
"""Seconds that a single read of a running download may block."""
WINDOW_SECONDS = 30.0
MIN_BYTES = 64 * 1024
"""Minimum number of bytes per window; a slower download would take hours and is stopped."""
TOTAL_SECONDS = 3600.0
"""Longest duration of a download in seconds; the next attempt resumes where it stopped."""
ATTEMPTS = 5
"""Number of connections that are opened for one download."""
_CHUNK = 1 << 20


class StallDetector:
    """Watchdog that stops a download which is too slow or takes too long.

    Args:
        num_bytes: Bytes that are already on disk.
        window: Seconds in which at least `MIN_BYTES` must arrive; default: `WINDOW_SECONDS`.
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
            if came < MIN_BYTES:
                raise TimeoutError(f"{came} bytes in {now - self._mark:.1f} s")
            self._mark, self._num_bytes = now, num_bytes


def download(url: str, part: Path, sha256: str, request: WeightsRequest) -> None:
    """Download the content of `url` into `part` and resume from the bytes that `part` holds.

    If the content has another sha256 and was not received in one piece, the earlier bytes may be
    damaged or of another content, so the download starts over.

    Args:
        url: Address with scheme `http` or `https`.
        part: Path of the partial file, complete when this function returns.
        sha256: All 64 hexadecimal digits of the sha256, or the first ones.
        request: User request that error messages quote.

    Raises:
        WeightsError: If the server refuses, is too slow or drops the connection too often, the
            content has another sha256, or the file cannot be written. Received bytes are kept for
            the next attempt, except for content with another sha256.
    """
    stall_detector = StallDetector(_get_size(part))
    changed = OSError("the server changes its content")
    broken: BaseException = changed
    for _ in range(ATTEMPTS):
        try:
            is_resumed, is_complete = _try_download(url, part, request, stall_detector)
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 416:  # `part` is longer than the server's content
                    part.unlink(missing_ok=True)
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
            continue
        if not is_complete:
            broken = EOFError(f"the connection ended after {_get_size(part)} bytes, which are kept")
            continue
        actual_sha256 = compute_sha256(part)
        if actual_sha256.startswith(sha256):
            return
        part.unlink(missing_ok=True)
        broken = changed
        if not is_resumed:
            raise WeightsError(
                f"{request.key}: {url} has the sha256 {actual_sha256}, but {sha256} was requested; "
                "the file was discarded: check the source, then the digits"
            )
    raise make_unreachable_error(url, request, broken)


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
        f"{parts.scheme}://{parts.netloc} ({get_first_line(error)[:120]}); {request.remedy}"
    )


def _try_download(
    url: str, part: Path, request: WeightsRequest, stall_detector: StallDetector
) -> tuple[bool, bool]:
    """Open one connection and write its content to `part`.

    Returns:
        Whether `part` was resumed, and whether it is complete.
    """
    have = _get_size(part)
    http_request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(http_request, timeout=READ_SECONDS) as answer:
        if answer.status != 206:  # the server sends all of the content
            have = 0
        length = answer.headers.get("Content-Length")
        _write(answer, part, "ab" if have else "wb", request, stall_detector)
    return have > 0, length is None or _get_size(part) == have + int(length)


def _write(
    answer: HTTPResponse,
    part: Path,
    mode: str,
    request: WeightsRequest,
    stall_detector: StallDetector,
) -> None:
    try:
        stream = part.open(mode)
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
