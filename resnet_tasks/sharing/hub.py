"""Upload to and download from a Hugging Face hub, each as a single commit."""

from __future__ import annotations

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

from resnet_tasks.errors import HubError, ResnetTasksError, RunError, get_first_line
from resnet_tasks.files.atomic import make_folder, write_json
from resnet_tasks.files.digests import compute_sha256
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
"""Timeout of a request for information, seconds."""
SOURCE = "pulled.json"
"""File in a pulled run that records the repository and commit that the run came from."""


@dataclass(frozen=True)
class HubUpload:
    """Files to upload, which can be reviewed before `upload`.

    Attributes:
        repo: Name of the repository, `OWNER/NAME`.
        files: All files, including the model card.
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
        """Collect the files that `push` uploads, without network access and without plugins.

        Args:
            run: Path of the run folder.
            repo: Name of the repository, `OWNER/NAME`.
            options: Options of the model card.
            best: Whether to include the best checkpoint, if there is one.
            report: Whether to include `report.html`, which embeds images of the dataset.

        Raises:
            HubError: If the repository name is invalid, the license contradicts that of the initial
                weights, or a file names folders of this machine.
            RunError: If it is not a run folder, or has no checkpoint.
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
        """Size of all files together, bytes."""
        return sum(file.size for file in self.files)

    def upload(
        self, *, public: bool = False, revision: str | None = None, endpoint: str | None = None
    ) -> str:
        """Upload all files as one commit.

        A broken connection therefore leaves the repository unchanged. Run files in the repository
        that this run does not have are deleted.

        Args:
            public: Whether to create the repository as public if it does not exist; required for
                uploads to a public repository.
            revision: Branch to commit to; default: the main branch.
            endpoint: URL of the hub; default: `HF_ENDPOINT`, else huggingface.co.

        Returns:
            URL of the commit.

        Raises:
            HubError: If there is no token, the hub refuses, or the connection breaks.
        """
        if get_token() is None:
            raise HubError(
                f"{self.repo}: there is no token with write access; create one on the hub, then "
                "run `hf auth login` or set HF_TOKEN"
            )
        api = HfApi(endpoint=endpoint)
        with _translate_hub_errors(self.repo, api.endpoint):
            api.create_repo(self.repo, private=not public, exist_ok=True)
            repo_info = api.model_info(self.repo, timeout=ANSWER_SECONDS)
            if not public and not repo_info.private:
                raise HubError(
                    f"{self.repo} already exists and is public; nothing was sent: pass --public if "
                    "this is intended, or choose another repository"
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
    """Download a shared run as a run folder.

    All files come from one commit, and the SHA-256 of large files is verified. Only the files of a
    run are downloaded: text, and tensors as safetensors. Nothing is unpickled and no code is
    executed. Downloaded plugins require consent when the run is used. An interrupted download is
    resumed by the same call.

    Args:
        repo: Name of the repository, `OWNER/NAME`.
        out: Path of the folder to create.
        revision: Branch, tag or commit; default: the main branch.
        endpoint: URL of the hub; default: `HF_ENDPOINT`, else huggingface.co.

    Returns:
        Path of the folder, and names of the files in the repository that were skipped.

    Raises:
        HubError: If the hub cannot be reached or has no such repository, or the repository is not a
            valid run.
        RunError: If the folder exists already or cannot be created.
    """
    _require_repo_name(repo)
    if out.exists():
        raise RunError(f"{out} already exists; choose another --out, or remove it")
    api = HfApi(endpoint=endpoint)
    # The name stays the same, so that the next call finds what an interrupted one has downloaded.
    partial_folder = out.with_name(f"{out.name}.partial")
    with _translate_hub_errors(repo, api.endpoint, revision):
        info = api.model_info(repo, revision=revision, files_metadata=True, timeout=ANSWER_SECONDS)
        digests = {sibling.rfilename: _get_digest(sibling) for sibling in info.siblings or ()}
        _require_safe_names(repo, list(digests))
        file_names = [name for name in digests if is_shared_file(name)]
        for name in ("recipe.yaml", "classes.json", "checkpoints/last/model.safetensors"):
            if name not in file_names:
                raise HubError(
                    f"{repo} is not a run of resnet-tasks: it has no {name}; upload runs with "
                    "`resnet-tasks push`"
                )
        make_folder(partial_folder)
        for name in file_names:
            api.hf_hub_download(repo, name, revision=info.sha, local_dir=partial_folder)
            file, digest = partial_folder / name, digests[name]
            if digest is not None and compute_sha256(file) != digest:
                file.unlink()
                raise HubError(
                    f"the sha256 of {file.name} of {repo} differs from that on the hub; the file "
                    "was deleted: try again"
                )
    shutil.rmtree(partial_folder / ".cache", ignore_errors=True)  # download state of the client
    try:
        read_run(partial_folder)
    except ResnetTasksError as error:
        shutil.rmtree(partial_folder, ignore_errors=True)  # a new download would not help
        raise HubError(f"{repo} is not a run that this version can use: {error}") from None
    provenance = {"repository": repo, "revision": revision, "commit": info.sha, "hub": api.endpoint}
    write_json(partial_folder / SOURCE, provenance)
    partial_folder.rename(out)
    return out, tuple(sorted(set(digests) - set(file_names)))


def _require_repo_name(repo: str) -> None:
    word = r"[A-Za-z0-9][\w.-]*"
    if not re.fullmatch(f"{word}/{word}", repo, re.ASCII) or re.search(r"\.\.|--|\.git$", repo):
        raise HubError(f"{repo!r} is not a repository name; write OWNER/NAME")


def _require_safe_names(repo: str, names: Sequence[str]) -> None:
    """Refuse a repository with file names that lead outside the folder."""
    for name in names:
        parts = PureWindowsPath(name)
        if parts.drive or parts.root or ".." in parts.parts:
            raise HubError(
                f"{repo} contains the file {name!r}, which would be written outside the folder"
            )


def _get_digest(sibling: Any) -> str | None:
    """Return the SHA-256 that the hub states for a large file; None for small files."""
    lfs = getattr(sibling, "lfs", None)
    return None if lfs is None else str(lfs["sha256"] if isinstance(lfs, dict) else lfs.sha256)


@contextmanager
def _translate_hub_errors(repo: str, endpoint: str, revision: str | None = None) -> Iterator[None]:
    """Translate errors of the hub's client into `HubError`s."""
    try:
        yield
    except ResnetTasksError:
        raise
    except GatedRepoError:
        raise HubError(
            f"{repo} on {endpoint} requires accepting its terms; accept them on its page"
        ) from None
    except RevisionNotFoundError:
        raise HubError(f"{repo} has no revision {revision!r}; see its page on {endpoint}") from None
    except RepositoryNotFoundError:
        raise HubError(
            f"{endpoint} has no repository {repo} that you may read; check the name, and for a "
            "private repository log in with `hf auth login` or HF_TOKEN"
        ) from None
    except HfHubHTTPError as error:
        raise HubError(_describe_refusal(repo, endpoint, error)) from None
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # the client wraps the original error
            cause = cause.__cause__
        raise HubError(
            f"{repo}: the connection to {endpoint} broke ({get_first_line(cause)}); run the same "
            "command to resume"
        ) from error


def _describe_refusal(repo: str, endpoint: str, error: HfHubHTTPError) -> str:
    status = error.response.status_code if error.response is not None else 0
    if status == 401:
        return f"{endpoint} does not accept the token; log in again with `hf auth login`"
    if status == 403:
        return (
            f"{endpoint} refuses: the token may not write to {repo}; choose a repository that you "
            "own, or use a token with write access"
        )
    reason = error.server_message or get_first_line(error)
    return f"{endpoint} refuses {repo} ({status}: {reason})"
