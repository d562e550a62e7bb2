"""Keep-alive of the connections between processes, so that a host that vanished is noticed.

A host that loses its power or network sends nothing, not even the end of its connections. Gloo does
not probe its connections: the other hosts would wait for half an hour.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

SECONDS = 60
"""Seconds without an answer from a host after which a connection to it fails."""
PROBE_SECONDS = 10
"""Seconds between two probes of an idle connection."""


def enable_keep_alive(seconds: int = SECONDS) -> int:
    """Let the TCP connections of this process fail if the other host does not answer any more.

    The operating system answers the probes, so that a busy process is not affected. Only Linux
    supports this.

    Args:
        seconds: Seconds without an answer after which a connection fails.

    Returns:
        Number of the connections.
    """
    folder = Path("/proc/self/fd")
    if not hasattr(socket, "TCP_USER_TIMEOUT") or not folder.is_dir():
        return 0
    options = (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_SECONDS),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_SECONDS),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * seconds),  # ends sending, too
    )
    num_connections = 0
    for path in folder.iterdir():
        try:
            if not str(path.readlink()).startswith("socket:"):
                continue
            # A duplicate has the options of the original, and can be closed.
            with socket.socket(fileno=os.dup(int(path.name))) as connection:
                connection.getpeername()
                for option in options:
                    connection.setsockopt(*option)
        except OSError:  # closed by now, not connected, or not TCP
            continue
        num_connections += 1
    return num_connections
