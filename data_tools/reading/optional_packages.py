"""Packages that only some formats need, and that are imported when such a format is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from resnet_tasks.errors import DataError


@contextmanager
def explain_missing_package(package: str, files: str) -> Iterator[None]:
    """Explain that a package of the extra `medical` is missing, if an import in the block fails.

    Args:
        package: Name of the package, as it is imported.
        files: Files that the package reads, for the error message.

    Raises:
        DataError: If the package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        raise DataError(
            f"{files} are read by {package}, which is not installed: "
            "`pip install 'resnet-tasks[medical]'`"
        ) from None
