"""Versions of the software that results depend on."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version


def find_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of this package, of Python, and of the packages that are installed."""
    versions = {"resnet-tasks": version("resnet-tasks"), "python": platform.python_version()}
    for package in packages:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions
