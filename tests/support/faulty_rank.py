"""The command line, in which a fault hits one of several processes: `torchrun -m ... ARGUMENTS`.

The environment variable `FAULT` names the fault, the process and the moment, such as `kill 1 step
4`: process 1 dies by SIGKILL at the beginning of its fourth step. Other phases are `evaluation` and
`checkpoint`. With `wait` instead of `kill`, the process waits for the fault to be caused. In any
case it prints a line that begins with `FAULT`, with the time. Hosts that do not answer are given up
after `PATIENCE` seconds.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from resnet_tasks.__main__ import main
from resnet_tasks.runtime import processes
from resnet_tasks.runtime.keep_alive import enable_keep_alive
from resnet_tasks.training import checkpointing, validation
from resnet_tasks.training.train_step import TrainStep

FAULT = "FAULT"
PATIENCE = 5
PHASES: dict[str, tuple[Any, str]] = {
    "step": (TrainStep, "run"),
    "evaluation": (validation, "evaluate"),
    "checkpoint": (checkpointing, "save_checkpoint"),
}
"""Phase -> owner and name of the function that runs it."""


def act_at_call(owner: Any, name: str, count: int, act: Callable[[], None]) -> None:
    """Call `act` before the `count`-th call of a function."""
    function: Callable[..., Any] = getattr(owner, name)
    num_calls = 0

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal num_calls
        num_calls += 1
        if num_calls == count:
            print(FAULT, time.monotonic(), file=sys.stderr, flush=True)
            act()
        return function(*args, **kwargs)

    setattr(owner, name, call)


ACTIONS: dict[str, Callable[[], None]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "wait": lambda: time.sleep(2),
}


if __name__ == "__main__":
    processes.enable_keep_alive = partial(enable_keep_alive, PATIENCE)
    if FAULT in os.environ:
        action, rank, phase, count = os.environ[FAULT].split()
        if rank == os.environ["RANK"]:
            act_at_call(*PHASES[phase], int(count), ACTIONS[action])
    main()
