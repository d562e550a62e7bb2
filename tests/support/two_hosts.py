"""Two hosts on one machine: namespaces for network, host name and processes, joined by a router.

`python -m tests.support.two_hosts FAULT COMMAND ...` runs the command on both hosts and prints what
they print, with the name of the host before every line, and their exit codes. The hosts are named
`first` and `second`, and know the addresses of both names. The module has to run inside
`NAMESPACES`, which needs no root, and which ends all processes of both hosts when it ends.

With `none`, nothing happens. With `killed`, all processes of a host die when it prints `FAULT`.
With `unplugged`, its cable is unplugged then: no packet arrives, not even the end of a connection.
The module ends with the first host, and with the second if that is not unplugged.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from threading import Thread

NAMESPACES = (
    *("unshare", "--map-root-user", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"),
)
"""Words before the command that starts this module."""
NAMES = ("first", "second")
FAULT = "FAULT"
"""Start of the line of a host at which the fault occurs."""
START = """
hostname {name}
echo READY
read -r line
ip link set lo up
ip address add 10.77.{number}.2/24 dev cable
ip link set cable up
ip route add default via 10.77.{number}.1
exec "$@"
"""
ROUTER = """
link add {name} type veth peer name cable netns {pid}
address add 10.77.{number}.1/24 dev {name}
link set {name} up
"""


class Host:
    """One host, which waits for its cable before it runs the command.

    Args:
        number: Number of the host, from 0.
        command: Words of the command.
    """

    def __init__(self, number: int, command: list[str]) -> None:
        self.name = NAMES[number]
        script = START.format(name=self.name, number=number)
        namespaces = ("--net", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc")
        self.process = subprocess.Popen(
            ["unshare", *namespaces, "sh", "-c", script, "sh", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        assert self.stdout.readline() == "READY\n"
        router = ROUTER.format(name=self.name, number=number, pid=self.process.pid)
        for line in router.strip().splitlines():
            subprocess.run(["ip", *line.split()], check=True)

    def start(self) -> None:
        """Run the command."""
        self.stdin.write("\n")
        self.stdin.close()

    def print_output(self, fault: str) -> None:
        """Print what the host prints, until it ends; cause a fault at the line `FAULT`."""
        for line in self.stdout:
            print(f"{self.name}: {line.rstrip()}", flush=True)
            if line.startswith(FAULT) and fault != "none":
                self._cause(fault)

    def _cause(self, fault: str) -> None:
        if fault == "killed":
            self.process.kill()  # `--kill-child` kills the first process, and that all others
        else:
            subprocess.run(["ip", "link", "set", self.name, "down"], check=True)


def set_up_router() -> None:
    """Make this network namespace forward packets, and give both hosts their names."""
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    with tempfile.NamedTemporaryFile("w") as names:  # stays readable where it is mounted
        names.write("127.0.0.1 localhost\n")
        names.writelines(f"10.77.{number}.2 {name}\n" for number, name in enumerate(NAMES))
        names.flush()
        Path(names.name).chmod(0o644)
        subprocess.run(["mount", "--bind", names.name, "/etc/hosts"], check=True)


def main(fault: str, command: list[str]) -> None:
    """Run a command on both hosts."""
    set_up_router()
    hosts = [Host(number, command) for number in range(len(NAMES))]
    threads = [
        Thread(target=host.print_output, args=(fault,), daemon=fault == "unplugged")
        for host in hosts
    ]
    for host, thread in zip(hosts, threads, strict=True):
        host.start()
        thread.start()
    for host in hosts[:1] if fault == "unplugged" else hosts:
        host.process.wait()
        print(f"{host.name} ended with {host.process.returncode} at {time.monotonic()}", flush=True)
    # An isolated host waits for the first one for as long as the operating system does.


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
