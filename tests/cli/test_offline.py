"""The quickstart on a machine without a network: it ends as usual, and nothing asks for one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_tools.converters.synthetic import make_cells
from tests.support.light_run import LIGHT
from tests.support.markdown import find_code_blocks
from tests.support.namespaces import require_namespaces
from tests.support.paths import ROOT

OFFLINE = ("unshare", "--map-root-user", "--net")
"""Words before a command that runs without any network, not even a connection to itself."""
WATCH = """
import os, sys

NETWORK = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "urllib.Request")

def watch(event, arguments):
    is_socket = event == "socket.__new__" and arguments[1] in (2, 10)  # AF_INET, AF_INET6
    if is_socket or event in NETWORK:
        with open(os.environ["USES_OF_NETWORK"], "a") as stream:
            stream.write(f"{event} {arguments[1:]}\\n")

sys.addaudithook(watch)
"""
"""Python runs a module of the name `sitecustomize` at its start, in every process."""


@pytest.mark.slow
def test_the_quickstart_needs_no_network(tmp_path: Path) -> None:
    """The first command and the Python of the README, and an attempt to see that it is noticed."""
    require_namespaces(OFFLINE)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    command = find_code_blocks(readme, "bash")[0].strip().split(" && ")[1].split()
    (python,) = (block for block in find_code_blocks(readme, "python") if "run.predict(" in block)
    make_cells(tmp_path / "data" / "cells", train=8, val=4, seed=1)
    (tmp_path / "sitecustomize.py").write_text(WATCH, encoding="utf-8")
    uses = tmp_path / "uses"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
        "USES_OF_NETWORK": str(uses),
        "HOME": str(tmp_path / "home"),  # without caches of earlier runs
    }
    environment = {
        name: value for name, value in environment.items() if not name.startswith(("HF_", "XDG_"))
    }

    def run(*words: str) -> None:
        process = subprocess.run(
            [*OFFLINE, sys.executable, *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert process.returncode == 0, process.stderr

    run("-m", *("resnet_tasks", *command[1:]), *LIGHT, "training.epochs=1", "data.workers=1")
    run("-c", python)
    assert (tmp_path / "runs/quickstart/report.html").is_file()
    assert not uses.exists(), uses.read_text()

    run("-c", "import socket; socket.socket()")
    assert "socket.__new__" in uses.read_text()
