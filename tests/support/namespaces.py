"""Namespaces of Linux that need no root, for disks, networks and hosts of a test."""

from __future__ import annotations

import shutil
import subprocess

import pytest


def require_namespaces(words: tuple[str, ...], *programs: str) -> None:
    """Skip the test where the system lacks programs or does not allow the namespaces.

    Args:
        words: Command that enters the namespaces and runs the command that follows.
        programs: Further programs that the test runs.
    """
    for program in (words[0], *programs):
        if shutil.which(program) is None:
            pytest.skip(f"needs the program {program}")
    process = subprocess.run([*words, "true"], capture_output=True, text=True, check=False)
    if process.returncode:
        pytest.skip(f"the system does not allow `{' '.join(words)}`: {process.stderr.strip()}")
