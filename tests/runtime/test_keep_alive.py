"""Connections that notice a host that vanished."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from resnet_tasks.runtime.keep_alive import enable_keep_alive

pytestmark = pytest.mark.skipif(
    not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the system is not Linux"
)

FILES = Path("/proc/self/fd")


def test_connected_sockets_fail_after_a_minute_without_an_answer() -> None:
    num_files = len(list(FILES.iterdir()))
    with socket.create_server(("127.0.0.1", 0)) as server:
        before = enable_keep_alive()
        with socket.create_connection(server.getsockname()) as client, server.accept()[0] as peer:
            assert enable_keep_alive() == before + 2  # the server itself is not connected
            for end in (client, peer):
                assert end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10
                assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 10
                assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
            client.sendall(b"still connected")
            assert peer.recv(99) == b"still connected"
        assert server.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0
    assert len(list(FILES.iterdir())) == num_files


def test_other_sockets_and_files_stay_as_they_are() -> None:
    before = enable_keep_alive()
    here, there = socket.socketpair()
    with here, there, Path(os.devnull).open("rb"):
        assert enable_keep_alive() == before
