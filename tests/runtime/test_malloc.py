"""What a process frees it keeps, where the system's allocator can be told so."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from resnet_tasks.runtime.malloc import keep_freed_memory

FAULTS = """
import resource, sys
import numpy as np
from resnet_tasks.runtime.malloc import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.ones(64 << 20, np.uint8)  # larger than any block that glibc keeps by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has such a setting")
def test_pages_are_cleared_once() -> None:
    found = {}
    for way in ("keep", "leave"):
        command = [sys.executable, "-c", FAULTS, way]
        made = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        found[way] = int(made.stdout)
    # Ten times 64 MB, in pages of at most 2 MB.
    assert found["leave"] >= 10 * 32
    assert found["keep"] < 10


def test_other_allocators_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr("ctypes.CDLL", None)
    assert keep_freed_memory() is False
