"""Runs to and from a Hugging Face hub: one commit there, a checked folder here."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from resnet_tasks.errors import HubError, ResnetTasksError, RunError
from resnet_tasks.files.atomic import make_folder, write_json
from resnet_tasks.report.run_view import RunView, read_run
from resnet_tasks.sharing.contents import (
    CARD,
    SharedFile,
    collect_files,
    is_shared_file,
    require_no_local_paths,
)
from resnet_tasks.sharing.model_card import CardOptions, build_model_card

ANSWER_SECONDS = 10.0
"""How long the hub may take to answer a question."""
SOURCE = "pulled.json"
"""File of a pulled run: where it is from."""


@dataclass(frozen=True)
class HubUpload:
    """What will be sent, ready to be looked at before.

    Attributes:
        repo: `OWNER/NAME`.
        files: All files, the card among them.
    """

    repo: str
    files: tuple[SharedFile, ...]

    @classmethod
    def from_run(
        cls,
        run: Path,
        repo: str,
        options: CardOptions | None = None,
        *,
        best: bool = True,
        report: bool = False,
    ) -> HubUpload:
        """What `push` sends of a run; asks no server and runs no code of the run.

        Args:
            run: The run folder.
            repo: `OWNER/NAME`.
            options: For the card.
            best: With the best checkpoint too.
            report: With `report.html`, which holds images of the data.

        Raises:
            HubError: If the repository's name is none, the license contradicts the first weights',
                or a file names folders of this machine.
            RunError: If it is no run, or has no checkpoint.
        """
        _require_repo_name(repo)
        view: RunView = read_run(run)
        files = collect_files(view, best=best, report=report)
        card = build_model_card(view, repo, options or CardOptions())
        files = [SharedFile(CARD, card.encode()), *files]
        require_no_local_paths(files, view)
        return cls(repo, tuple(files))

    @property
    def size(self) -> int:
        """Of all files, in bytes."""
        return sum(file.size for file in self.files)

    def upload(
        self, *, public: bool = False, revision: str | None = None, endpoint: str | None = None
    ) -> str:
        """Sends all files as one commit: a connection that breaks leaves the repository as it was.

        Files of a run that was there before and that this one does not have are taken away.

        Args:
            public: Make the repository, where there is none, for everybody to read; needed to send
                to one that is.
            revision: Branch; default: the main one.
            endpoint: The hub; default: `HF_ENDPOINT`, else huggingface.co.

        Returns:
            Address of the commit.

        Raises:
            HubError: If there is no token, the hub refuses, or the connection breaks.
        """
        if get_token() is None:
            raise HubError(
                f"{self.repo}: there is no token to write with; make one on the hub, then "
                "`hf auth login`, or name it with HF_TOKEN"
            )
        api = HfApi(endpoint=endpoint)
        with _translate_hub_errors(self.repo, api.endpoint):
            api.create_repo(self.repo, private=not public, exist_ok=True)
            repo_info = api.model_info(self.repo, timeout=ANSWER_SECONDS)
            if not public and not repo_info.private:
                raise HubError(
                    f"{self.repo} is there already and open to everybody; nothing was sent: pass "
                    "--public if that is meant, or name another repository"
                )
            sent = {file.name for file in self.files}
            stale = [sibling.rfilename for sibling in repo_info.siblings or ()]
            commit = api.create_commit(
                self.repo,
                [
                    *(CommitOperationAdd(file.name, file.content) for file in self.files),
                    *(
                        CommitOperationDelete(name)
                        for name in stale
                        if is_shared_file(name) and name not in sent
                    ),
                ],
                commit_message="A run of resnet-tasks",
                revision=revision,
            )
        return str(commit.commit_url)


def pull(
    repo: str, out: Path, *, revision: str | None = None, endpoint: str | None = None
) -> tuple[Path, tuple[str, ...]]:
    """Brings a shared run here as a run folder, all of one commit, every file checked.

    Only the files of a run are brought: text, and tensors as safetensors. Nothing is unpickled and
    no code runs; plugins among them ask for consent when the run is used. Stopped, the same call
    goes on where it was.

    Args:
        repo: `OWNER/NAME`.
        out: Folder that is made.
        revision: Branch, tag or commit; default: the main branch.
        endpoint: As in `Parcel.send`.

    Returns:
        The folder, and the files of the repository that were left out.

    Raises:
        HubError: If the hub cannot be reached, has no such repository, or what it holds is no run.
        RunError: If the folder is there already, or cannot be made.
    """
    _require_repo_name(repo)
    if out.exists():
        raise RunError(f"{out} is there already; choose another --out, or remove it")
    api = HfApi(endpoint=endpoint)
    partial_folder = out.with_name(f"{out.name}.partial")
    with _translate_hub_errors(repo, api.endpoint, revision):
        info = api.model_info(repo, revision=revision, files_metadata=True, timeout=ANSWER_SECONDS)
        digests = {sibling.rfilename: _get_digest(sibling) for sibling in info.siblings or ()}
        _require_safe_names(repo, list(digests))
        file_names = [name for name in digests if is_shared_file(name)]
        for name in ("recipe.yaml", "classes.json", "checkpoints/last/model.safetensors"):
            if name not in file_names:
                raise HubError(
                    f"{repo} is no run of resnet-tasks: it has no {name}; runs are sent by "
                    "`resnet-tasks push`"
                )
        make_folder(partial_folder)
        for name in file_names:
            api.hf_hub_download(repo, name, revision=info.sha, local_dir=partial_folder)
            _verify_digest(repo, partial_folder / name, digests[name])
    shutil.rmtree(partial_folder / ".cache", ignore_errors=True)  # the client's notes
    try:
        read_run(partial_folder)
    except ResnetTasksError as error:
        shutil.rmtree(partial_folder, ignore_errors=True)  # the same commit stays what it is
        raise HubError(f"{repo} is no run that this version can use: {error}") from None
    provenance = {"repository": repo, "revision": revision, "commit": info.sha, "hub": api.endpoint}
    write_json(partial_folder / SOURCE, provenance)
    partial_folder.rename(out)
    return out, tuple(sorted(set(digests) - set(file_names)))


def _require_repo_name(repo: str) -> None:
    word = r"[A-Za-z0-9][\w.-]*"
    if not re.fullmatch(f"{word}/{word}", repo, re.ASCII) or re.search(r"\.\.|--|\.git$", repo):
        raise HubError(f"{repo!r} is no name of a repository; write OWNER/NAME")


def _require_safe_names(repo: str, names: Sequence[str]) -> None:
    """Refuses a repository with names that would leave the folder."""
    for name in names:
        parts = PureWindowsPath(name)
        if parts.drive or parts.root or ".." in parts.parts:
            raise HubError(f"{repo} holds the file {name!r}, which would lie outside the folder")


def _get_digest(sibling: Any) -> str | None:
    """SHA-256 of a large file, as the hub states it; None for small ones."""
    lfs = getattr(sibling, "lfs", None)
    return None if lfs is None else str(lfs["sha256"] if isinstance(lfs, dict) else lfs.sha256)


def _verify_digest(repo: str, file: Path, digest: str | None) -> None:
    if digest is None:
        return
    with file.open("rb") as stream:
        actual_digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if actual_digest != digest:
        file.unlink()
        raise HubError(
            f"{file.name} of {repo} came with another sha256 than the hub states; it was not kept: "
            "try again"
        )


@contextmanager
def _translate_hub_errors(repo: str, endpoint: str, revision: str | None = None) -> Iterator[None]:
    """Errors of the hub's client as sentences."""
    try:
        yield
    except ResnetTasksError:
        raise
    except GatedRepoError:
        raise HubError(
            f"{endpoint} gives {repo} to those who accepted its terms only; accept them on its page"
        ) from None
    except RevisionNotFoundError:
        raise HubError(f"{repo} has no revision {revision!r}; see its page on {endpoint}") from None
    except RepositoryNotFoundError:
        raise HubError(
            f"{endpoint} has no repository {repo} that you may read; check the name, and for a "
            "private one log in with `hf auth login` or HF_TOKEN"
        ) from None
    except HfHubHTTPError as error:
        raise HubError(_describe_refusal(repo, endpoint, error)) from None
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # the client wraps what happened
            cause = cause.__cause__
        reason = (str(cause).strip().splitlines() or [""])[0] or type(cause).__name__
        raise HubError(
            f"{repo}: the connection to {endpoint} broke ({reason}); the same command goes on"
        ) from error


def _describe_refusal(repo: str, endpoint: str, error: HfHubHTTPError) -> str:
    status = error.response.status_code if error.response is not None else 0
    if status == 401:
        return f"{endpoint} does not know the token; log in again with `hf auth login`"
    if status == 403:
        return (
            f"{endpoint} refuses: the token may not write to {repo}; name a repository of your own "
            "or take a token that may write"
        )
    reason = error.server_message or (str(error).strip().splitlines() or ["no reason"])[0]
    return f"{endpoint} refuses {repo} ({status}: {reason})"
