"""Readers under fuzzing: what each is called with, and what it may raise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from resnet_tasks.errors import ResnetTasksError
from tests.support.damage import Damage

Errors = tuple[type[BaseException], ...]
Read = Callable[[bytes], object]
CORPUS = Path(__file__).parent / "corpus"


@dataclass(frozen=True)
class Target:
    """One reader of untrusted bytes.

    Attributes:
        name: Name of the test and of the folder of its corpus.
        prepare: Function that takes a new folder, writes what the reader needs besides the damaged
            file, and returns the function that reads its content.
        seeds: Function that returns file name -> valid content; `write_corpus` stores them.
        damage: Damage that keeps the outer form of the content, so that readers do not reject it at
            the first byte; None: only bytes are changed.
        errors: Errors that are messages to the user. Any other exception is a finding.
        max_bytes: Length of the longest input.
    """

    name: str
    prepare: Callable[[Path], Read]
    seeds: Callable[[], Mapping[str, bytes]]
    damage: Damage | None = None
    errors: Errors = (ResnetTasksError,)
    max_bytes: int = 1 << 14

    @property
    def corpus(self) -> Path:
        """Folder of the inputs that fuzzing starts from."""
        return CORPUS / self.name

    def read_corpus(self) -> dict[str, bytes]:
        """Return file name -> content of the corpus."""
        return {file.name: file.read_bytes() for file in sorted(self.corpus.iterdir())}


def read_file(name: str, read: Callable[[Path], object]) -> Callable[[Path], Read]:
    """Return a `Target.prepare` whose reader takes the path of a file of that name."""

    def prepare(folder: Path) -> Read:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)

        def read_content(content: bytes) -> object:
            path.write_bytes(content)
            return read(path)

        return read_content

    return prepare


def call_all(readers: Iterable[Callable[[], object]], errors: Errors) -> None:
    """Call several readers of one file.

    Raises:
        BaseException: The last one of `errors`, if no reader accepts the file.
    """
    is_accepted, last = False, None
    for read in readers:
        try:
            read()
            is_accepted = True
        except errors as error:
            last = error
    if last is not None and not is_accepted:
        raise last
