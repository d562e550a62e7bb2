"""Downloads of weights: cached, resumable, verified and bounded in time."""

from __future__ import annotations

import re
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
import yaml
from huggingface_hub import constants, hf_hub_download, hf_hub_url, metadata_load
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name

from resnet_tasks.backbone.file_transfer import (
    StallDetector,
    download,
    lock_download,
    make_unreachable_error,
)
from resnet_tasks.backbone.weights_request import WeightsRequest
from resnet_tasks.errors import WeightsError
from resnet_tasks.files.digests import compute_sha256
from resnet_tasks.files.json_files import read_configuration

PROBE_SECONDS = 6.0
"""Seconds in which a server must answer at all, name resolution included."""
HUB_STILL_SECONDS = 120.0
"""Seconds without new bytes before a hub download is abandoned.

The hub's client writes blocks of many megabytes, so that this is longer than `WINDOW_SECONDS`.
"""
_OUT_OF_ORDER = (500, 502, 503, 504)


def fetch_hub_file(
    repo: str, names: tuple[str, ...], *, request: WeightsRequest, revision: str | None = None
) -> Path:
    """Fetch the first of several files that a hub repository has, from the cache if possible.

    Args:
        repo: Repository as `owner/name`.
        names: File names, best first.
        request: User request that error messages quote.
        revision: Branch, tag or commit; default: the main branch.

    Raises:
        WeightsError: If the hub does not answer within a few seconds, or if the repository or all
            files are missing.
    """
    damaged = False
    for name in names:
        cached = _find_cached(repo, name, revision, request)
        if cached is not None and _is_intact(cached):
            return cached
        damaged |= cached is not None
    if constants.HF_HUB_OFFLINE:
        raise WeightsError(
            f"{request} ({repo}) is {'damaged' if damaged else 'not'} in the cache and "
            f"HF_HUB_OFFLINE forbids fetching it; {request.remedy}"
        )
    _check_reachable(hf_hub_url(repo, names[0], revision=revision), request)
    for name in names:
        fetched = _download_from_hub(repo, name, revision, request, force=damaged)
        if fetched is not None:
            return fetched
    raise WeightsError(
        f"{request}: the repository {repo} has none of {', '.join(names)}; {request.remedy}"
    )


def read_hub_metadata(
    repo: str, revision: str | None, *, request: WeightsRequest
) -> dict[str, Any]:
    """Read `mean`, `std` and `license` of a hub repository, as far as it states them.

    They are stored in `config.json` (timm's layout, in `pretrained_cfg` or at the top level). The
    license may be in the front matter of `README.md` instead.

    Raises:
        DataError: If the `config.json` of the repository is damaged.
        WeightsError: If the hub cannot be reached, or the repository does not exist.
    """
    metadata: dict[str, Any] = {}
    config = _fetch_optional(repo, "config.json", revision, request)
    if config is not None:
        content = read_configuration(config)
        inner = content.get("pretrained_cfg")
        for source in (content, inner if isinstance(inner, dict) else {}):
            metadata |= {key: source[key] for key in ("mean", "std", "license") if source.get(key)}
    if "license" not in metadata:
        card = _fetch_optional(repo, "README.md", revision, request)
        if card is not None:
            metadata["license"] = _read_front_matter(card).get("license")
    return metadata


def download_file(url: str, sha256: str, *, request: WeightsRequest) -> Path:
    """Download a file into torch's checkpoint cache and verify its sha256 on every use.

    Args:
        url: Address with scheme `http` or `https`.
        sha256: All 64 hexadecimal digits of the sha256, or the first ones.
        request: User request that error messages quote.

    Raises:
        WeightsError: If the server cannot be reached or refuses, or the content has another sha256.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    base = Path(urlsplit(url).path).name or "weights"
    # torch.hub caches torchvision's files under their name, which already contains the digits.
    target = folder / (base if sha256 in base else f"{sha256[:16]}-{base}")
    if _has_sha256(target, sha256):
        return target
    _check_reachable(url, request)
    part = target.with_name(target.name + ".part")
    with lock_download(part, request):
        if not _has_sha256(target, sha256):  # another process may have finished first
            download(url, part, sha256, request)
            part.replace(target)
    return target


def _has_sha256(file: Path, sha256: str) -> bool:
    return file.is_file() and compute_sha256(file).startswith(sha256)


def _find_cached(
    repo: str, name: str, revision: str | None, request: WeightsRequest
) -> Path | None:
    try:
        return Path(hf_hub_download(repo, name, revision=revision, local_files_only=True))
    except HFValidationError as error:
        raise WeightsError(
            f"{request} names the repository {repo!r}; write it as hf-hub:OWNER/NAME"
        ) from error
    except LocalEntryNotFoundError:
        return None


def _is_intact(file: Path) -> bool:
    """Return whether a file of the hub's cache matches the sha256 in its file name.

    The hub names large files by their sha256. Small files, and caches on systems without symbolic
    links, have no sha256 in their name and pass.
    """
    name = file.resolve().name
    return re.fullmatch("[0-9a-f]{64}", name) is None or compute_sha256(file) == name


def _download_from_hub(
    repo: str, name: str, revision: str | None, request: WeightsRequest, *, force: bool = False
) -> Path | None:
    """Download a file from the hub; return None if the repository does not have it."""

    def fetch() -> Path:
        return Path(
            hf_hub_download(
                repo, name, revision=revision, etag_timeout=PROBE_SECONDS, force_download=force
            )
        )

    url = hf_hub_url(repo, name)
    try:
        file = _run_with_stall_check(fetch, repo)
    except GatedRepoError as error:
        raise WeightsError(
            f"{request}: the hub restricts {repo} to users who accepted its terms; accept them on "
            f"its page and set HF_TOKEN to your token, or {request.remedy}"
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise WeightsError(
            f"{request}: the hub has no repository {repo} at {revision or 'main'} that you may "
            f"read; check the name, or {request.remedy}"
        ) from error
    except LocalEntryNotFoundError as error:
        raise make_unreachable_error(url, request, error) from error
    except EntryNotFoundError:
        return None
    except Exception as error:
        raise make_unreachable_error(url, request, error) from error
    if not _is_intact(file):
        raise WeightsError(
            f"{request}: {name} of {repo} has a different sha256 than the hub states; the file "
            f"was discarded: try again, or {request.remedy}"
        )
    return file


def _run_with_stall_check(fetch: Callable[[], Path], repo: str) -> Path:
    """Run `fetch` in a thread and abandon it if no bytes arrive.

    The hub's client limits the time of every single read, but neither their sum nor the time that
    it waits for another process.

    Raises:
        TimeoutError: If nothing arrives for `HUB_STILL_SECONDS`, or the download takes longer than
            `TOTAL_SECONDS`.
    """
    results: list[Path] = []
    failures: list[BaseException] = []

    def run_fetch() -> None:
        try:
            results.append(fetch())
        except BaseException as error:  # noqa: BLE001  # raised again below, in the caller's thread
            failures.append(error)

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model")
    stall_detector = StallDetector(_count_bytes(folder), HUB_STILL_SECONDS)
    thread = threading.Thread(target=run_fetch, name=f"fetch {repo}", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
        stall_detector.check(_count_bytes(folder))
    if failures:
        raise failures[0]
    return results[0]


def _count_bytes(folder: Path) -> int:
    total = 0
    for file in folder.glob("blobs/*"):
        with suppress(OSError):  # a finished file may be renamed between glob and stat
            total += file.stat().st_size
    return total


def _fetch_optional(
    repo: str, name: str, revision: str | None, request: WeightsRequest
) -> Path | None:
    """Fetch a file that a repository may lack; offline, return the cached file or None.

    A failed download is ignored if the weights themselves are cached: a run must not depend on the
    network for a file that only adds metadata.
    """
    cached = _find_cached(repo, name, revision, request)
    if cached is not None or constants.HF_HUB_OFFLINE:
        return cached
    weights = [
        _find_cached(repo, file_name, revision, request)
        for file_name in ("model.safetensors", "pytorch_model.bin")
    ]
    try:
        _check_reachable(hf_hub_url(repo, name, revision=revision), request)
        return _download_from_hub(repo, name, revision, request)
    except WeightsError:
        if any(weights):
            return None
        raise


def _read_front_matter(card: Path) -> dict[str, Any]:
    # ValueError: the front matter is not a mapping, or the card is not UTF-8.
    with suppress(yaml.YAMLError, ValueError, RecursionError):
        return metadata_load(card) or {}
    return {}


def _check_reachable(url: str, request: WeightsRequest) -> None:
    """Raise an error within about `PROBE_SECONDS` if no server answers; a refusal is an answer.

    The hub's client retries for minutes, and name resolution has no timeout. The probe therefore
    runs in a thread that is abandoned when the time is up.
    """
    failures: list[BaseException] = []
    thread = threading.Thread(target=_probe, args=(url, failures), daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS + 1)
    if thread.is_alive():
        failures.append(TimeoutError(f"no answer in {PROBE_SECONDS:.0f} s"))
    if failures:
        raise make_unreachable_error(url, request, failures[0]) from failures[0]


def _probe(url: str, failures: list[BaseException]) -> None:
    head_request = urllib.request.Request(url, method="HEAD")
    try:
        urllib.request.build_opener(_NoRedirectHandler).open(
            head_request, timeout=PROBE_SECONDS
        ).close()
    except urllib.error.HTTPError as answer:
        answer.close()
        if answer.code in _OUT_OF_ORDER:
            failures.append(answer)
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        # Certificate stores differ between clients; only the download itself can decide on them.
        if not isinstance(reason, ssl.SSLError):
            failures.append(reason if isinstance(reason, BaseException) else error)


class _NoRedirectHandler(urllib.request.HTTPRedirectHandler):
    """Redirect handler that follows no redirect: a redirect proves that a server answers."""

    def redirect_request(self, *_: Any) -> None:
        return None
