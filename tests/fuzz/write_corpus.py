"""Writes the corpus: `python -m tests.fuzz.write_corpus` from the root of the repository.

Existing files are kept, because some formats store times and addresses: remove them to renew them.
"""

from __future__ import annotations

import shutil

from tests.fuzz.target import CORPUS
from tests.fuzz.targets.table import TARGETS


def main() -> None:
    """Write the seeds of every target, and remove the corpus of targets that no longer exist."""
    for folder in CORPUS.glob("*"):
        if folder.name not in TARGETS:
            shutil.rmtree(folder)
    for target in TARGETS.values():
        target.corpus.mkdir(parents=True, exist_ok=True)
        for name, content in target.seeds().items():
            if not (target.corpus / name).exists():
                (target.corpus / name).write_bytes(content)


if __name__ == "__main__":
    main()
