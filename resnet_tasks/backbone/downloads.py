"""Downloads of weights: caches first, everything bounded in time, every failure in one sentence."""

from __future__ import annotations

import hashlib
import json
import os
import ssl
import tempfile
import threading
import urllib.error
import urllib.request
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
import yaml
from huggingface_hub import constants, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from resnet_tasks.errors import WeightsError

PROBE_SECONDS = 6.0
"""How long a server may take to answer at all; name resolution included."""
READ_SECONDS = 20.0
"""How long a running download may stand still."""
REMEDY = (
    "give a file on this machine with backbone.weights=PATH, or start from random weights with "
    "backbone.weights=none"
)
_CHUNK = 1 << 20
_OUT_OF_ORDER = (500, 502, 503, 504)


def hub_file(repo: str, names: tuple[str, ...], *, spec: str, revision: str | None = None) -> Path:
    """The first of some files that a hub repository has, from the cache if it is there.

    Args:
        repo: `owner/name`.
        names: File names, best first.
        spec: What the user wrote, for messages.
        revision: Branch, tag or commit; default: the main branch.

    Raises:
        WeightsError: If the hub cannot be reached in some seconds, or repository or file do not
            exist.
    """
    for name in names:
        cached = _cached(repo, name, revision, spec)
        if cached is not None:
            return cached
    if constants.HF_HUB_OFFLINE:
        raise WeightsError(
            f"backbone.weights: {spec!r} ({repo}) is not in the cache and HF_HUB_OFFLINE forbids "
            f"to fetch it; {REMEDY}"
        )
    _check_reachable(hf_hub_url(repo, names[0], revision=revision), spec)
    for name in names:
        fetched = _fetched(repo, name, revision, spec)
        if fetched is not None:
            return fetched
    raise WeightsError(
        f"backbone.weights: {spec!r}: the repository {repo} has none of {', '.join(names)}; "
        f"{REMEDY}"
    )


def hub_metadata(repo: str, revision: str | None, *, spec: str) -> dict[str, Any]:
    """`mean`, `std` and `license` of a hub repository, as far as it states them.

    They stand in `config.json` (timm's layout, in `pretrained_cfg` or at the top); the licence may
    stand in the front matter of `README.md` instead.

    Raises:
        WeightsError: If the hub cannot be reached, the repository does not exist, or its
            `config.json` is broken.
    """
    known: dict[str, Any] = {}
    config = _optional(repo, "config.json", revision, spec)
    if config is not None:
        try:
            content = json.loads(config.read_text(encoding="utf-8"))
        except ValueError as error:
            raise WeightsError(f"{config} (of {repo}) is no JSON: {error}") from error
        content = content if isinstance(content, dict) else {}
        inner = content.get("pretrained_cfg")
        for source in (content, inner if isinstance(inner, dict) else {}):
            known |= {key: source[key] for key in ("mean", "std", "license") if source.get(key)}
    if "license" not in known:
        card = _optional(repo, "README.md", revision, spec)
        if card is not None:
            known["license"] = _front_matter(card).get("license")
    return known


def cached_download(url: str, sha256: str, *, spec: str) -> Path:
    """A file from a URL, kept in torch's own cache of checkpoints and checked on every use.

    Args:
        url: `http` or `https`.
        sha256: All 64 or the first hexadecimal digits.
        spec: What the user wrote, for messages.

    Raises:
        WeightsError: If the server cannot be reached or refuses, or the content has another sha256.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    base = Path(urlsplit(url).path).name or "weights"
    # torch.hub keeps torchvision's files by name, which holds the digits already.
    target = folder / (base if sha256 in base else f"{sha256[:16]}-{base}")
    if target.is_file() and _sha256(target).startswith(sha256):
        return target
    _check_reachable(url, spec)
    folder.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=folder, suffix=".part")
    os.close(handle)
    try:
        found = _stream(url, Path(part), spec)
        if not found.startswith(sha256):
            raise WeightsError(
                f"backbone.weights: {url} has the sha256 {found}, but {sha256} was asked for; "
                "the file was not kept: "
                "check the source, then the digits"
            )
        Path(part).replace(target)
    finally:
        Path(part).unlink(missing_ok=True)
    return target


def _cached(repo: str, name: str, revision: str | None, spec: str) -> Path | None:
    try:
        return Path(hf_hub_download(repo, name, revision=revision, local_files_only=True))
    except HFValidationError as error:
        raise WeightsError(
            f"backbone.weights: {spec!r} names the repository {repo!r}; write it as "
            "hf-hub:OWNER/NAME"
        ) from error
    except LocalEntryNotFoundError:
        return None


def _fetched(repo: str, name: str, revision: str | None, spec: str) -> Path | None:
    """The downloaded file; None where the repository does not have it."""
    try:
        return Path(hf_hub_download(repo, name, revision=revision, etag_timeout=PROBE_SECONDS))
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise WeightsError(
            f"backbone.weights: {spec!r}: the hub has no repository {repo} at "
            f"{revision or 'main'} that you may read; "
            f"check the name, or {REMEDY}"
        ) from error
    except LocalEntryNotFoundError as error:
        raise _unreachable(hf_hub_url(repo, name), spec, error) from error
    except EntryNotFoundError:
        return None
    except Exception as error:
        raise _unreachable(hf_hub_url(repo, name), spec, error) from error


def _optional(repo: str, name: str, revision: str | None, spec: str) -> Path | None:
    """A file that a repository need not have. Offline, what is in the cache has to do."""
    cached = _cached(repo, name, revision, spec)
    if cached is not None or constants.HF_HUB_OFFLINE:
        return cached
    weights = [
        _cached(repo, each, revision, spec) for each in ("model.safetensors", "pytorch_model.bin")
    ]
    try:
        _check_reachable(hf_hub_url(repo, name, revision=revision), spec)
        return _fetched(repo, name, revision, spec)
    except WeightsError:
        if any(weights):
            return None
        raise


def _front_matter(card: Path) -> dict[str, Any]:
    text = card.read_text(encoding="utf-8", errors="replace")
    if not text.startswith("---"):
        return {}
    with suppress(yaml.YAMLError):
        content = yaml.safe_load(text.split("---", 2)[1])
        if isinstance(content, dict):
            return content
    return {}


def _check_reachable(url: str, spec: str) -> None:
    """Raises within `PROBE_SECONDS` where no server answers; refusals are answers too.

    The hub client retries for minutes, and name resolution has no time limit of its own, hence the
    thread.
    """
    failures: list[BaseException] = []
    thread = threading.Thread(target=_probe, args=(url, failures), daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS + 1)
    if thread.is_alive():
        failures.append(TimeoutError(f"no answer in {PROBE_SECONDS:.0f} s"))
    if failures:
        raise _unreachable(url, spec, failures[0]) from failures[0]


def _probe(url: str, failures: list[BaseException]) -> None:
    request = urllib.request.Request(url, method="HEAD")
    try:
        urllib.request.build_opener(_Unfollowed).open(request, timeout=PROBE_SECONDS).close()
    except urllib.error.HTTPError as answer:
        answer.close()
        if answer.code in _OUT_OF_ORDER:
            failures.append(answer)
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        # Certificates differ between clients; the download itself decides about them.
        if not isinstance(reason, ssl.SSLError):
            failures.append(reason if isinstance(reason, BaseException) else error)


class _Unfollowed(urllib.request.HTTPRedirectHandler):
    """A redirect is an answer too."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _stream(url: str, file: Path, spec: str) -> str:
    """Writes what `url` gives and returns its sha256."""
    digest = hashlib.sha256()
    try:
        with (
            urllib.request.urlopen(url, timeout=READ_SECONDS) as answer,
            file.open("wb") as stream,
        ):
            while chunk := answer.read(_CHUNK):
                digest.update(chunk)
                stream.write(chunk)
    except urllib.error.HTTPError as error:
        with error:
            raise WeightsError(
                f"backbone.weights: {spec!r}: the server answers {error.code} {error.reason}; "
                "check the address, or "
                f"{REMEDY}"
            ) from error
    except (OSError, HTTPException) as error:
        raise _unreachable(url, spec, error) from error
    return digest.hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _unreachable(url: str, spec: str, error: BaseException) -> WeightsError:
    parts = urlsplit(url)
    lines = str(error).strip().splitlines()
    reason = lines[0][:120] if lines else type(error).__name__
    return WeightsError(
        f"backbone.weights: {spec!r} is not in the cache and cannot be fetched from "
        f"{parts.scheme}://{parts.netloc} "
        f"({reason}); {REMEDY}"
    )
