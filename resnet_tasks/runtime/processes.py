"""The processes that train one model together: who is who, what all of them know, what one decides.

Started by `torchrun` or `accelerate launch`. Plain values travel over a group of their own on the
CPU, so that the same code serves processes with and without GPUs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, TypeVar

import torch
from accelerate.state import AcceleratorState, PartialState
from rich.console import Console
from torch import distributed, nn

from resnet_tasks.errors import RecipeError, ResnetTasksError, RunError
from resnet_tasks.runtime.devices import resolve_device

Value = TypeVar("Value")


@dataclass(frozen=True)
class DistributedContext:
    """This process among those of the run.

    Attributes:
        index: 0 is the main one, which writes and talks.
        count: How many there are.
        local_index: Among those of this machine; the number of its GPU.
        group: Carries plain values; None for a single process.
    """

    index: int = 0
    count: int = 1
    local_index: int = 0
    group: Any = None

    @classmethod
    def start(cls, device: torch.device) -> DistributedContext:
        """Joins the processes of this run; a single one where no launcher started several.

        Accelerate keeps its settings for the life of a process, which would tie one run to another:
        they are forgotten here.

        Args:
            device: `cpu` joins over gloo, others over what suits them.
        """
        AcceleratorState._reset_state()
        PartialState._reset_state()
        state = PartialState(cpu=device.type == "cpu")
        if state.num_processes == 1:
            return cls()
        return cls(
            index=state.process_index,
            count=state.num_processes,
            local_index=state.local_process_index,
            group=distributed.new_group(backend="gloo"),
        )

    @property
    def is_main(self) -> bool:
        """Whether this one writes the files and talks to the user."""
        return self.index == 0

    def select_console(self, console: Console) -> Console:
        """`console` in the main process; one that says nothing in the others."""
        return console if self.is_main else Console(quiet=True)

    def run_on_main(self, compute: Callable[[], Value]) -> Value:
        """What `compute` gives in the main process, in all of them; its error too.

        Raises:
            ResnetTasksError: That of the main process.
            RunError: If another process is gone.
        """
        if self.count == 1:
            return compute()
        answer: list[Any] = [None, None]
        if self.is_main:
            try:
                answer = [compute(), None]
            except ResnetTasksError as error:
                answer = [None, error]
        with self.translate_communication_errors():
            distributed.broadcast_object_list(answer, src=0, group=self.group)
        if answer[1] is not None:
            raise answer[1]
        value: Value = answer[0]
        return value

    def all_gather(self, value: Value) -> list[Value]:
        """The values of all processes, by index.

        Raises:
            RunError: If another process is gone.
        """
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        with self.translate_communication_errors():
            distributed.all_gather_object(values, value, group=self.group)
        return values

    def collect(self, value: Value) -> list[Value]:
        """The values of all processes, by index, in the main one; nothing in the others.

        Raises:
            RunError: If another process is gone.
        """
        if self.count == 1:
            return [value]
        values: list[Any] | None = [None] * self.count if self.is_main else None
        # A tensor on a GPU would arrive on the GPU of its sender.
        with self.translate_communication_errors():
            distributed.gather_object(_move_to_cpu(value), values, dst=0, group=self.group)
        return values or []

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all processes.

        Raises:
            RunError: If another process is gone.
        """
        if self.count > 1:
            with self.translate_communication_errors():
                distributed.all_reduce(tensor)
        return tensor

    def broadcast_buffers(self, module: nn.Module) -> None:
        """Gives every process the main one's buffers of a module (statistics of norms).

        Raises:
            RunError: If another process is gone.
        """
        if self.count > 1:
            with self.translate_communication_errors():
                for buffer in module.buffers():
                    distributed.broadcast(buffer, src=0)

    @contextmanager
    def translate_communication_errors(self) -> Iterator[None]:
        """Turns the failure of an exchange with another process into a sentence.

        Raises:
            RunError: If another process is gone.
        """
        try:
            yield
        except RuntimeError as error:
            if self.count == 1 or not _is_peer_failure(error):
                raise
            raise RunError(
                f"process {self.index} of {self.count}: another process of this run has ended or "
                "does not answer; its own message says why. What was written stays readable: mend "
                "that and go on with --resume"
            ) from error

    def leave(self) -> None:
        """Parts from the others, who notice it if they still wait; nothing for a single process."""
        if self.count > 1 and distributed.is_initialized():
            distributed.destroy_process_group()
            AcceleratorState._reset_state()
            PartialState._reset_state()


SINGLE_PROCESS = DistributedContext()
"""A process that trains by itself."""


def resolve_process_device(name: str, processes: DistributedContext) -> torch.device:
    """The device of one of several processes: each GPU of a machine serves one.

    Raises:
        RecipeError: If it is not there.
    """
    device = resolve_device(name)
    if processes.count == 1 or device.type != "cuda":
        return device
    if name not in ("auto", "cuda") or processes.local_index >= torch.cuda.device_count():
        raise RecipeError(
            f"training.device is {name!r}, but {processes.local_index + 1} or more processes run "
            f"on this machine with {torch.cuda.device_count()} GPUs; use auto or cuda, and start "
            "one process per GPU"
        )
    return torch.device("cuda", processes.local_index)


def _move_to_cpu(value: Any) -> Any:
    """The same value with its tensors on the CPU, whatever holds them."""
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, (list, tuple)):
        return type(value)(map(_move_to_cpu, value))
    if isinstance(value, dict):
        return {key: _move_to_cpu(nested) for key, nested in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{key: _move_to_cpu(field_value) for key, field_value in vars(value).items()}
        )
    return value


def _is_peer_failure(error: RuntimeError) -> bool:
    text = str(error).lower()
    signs = ("gloo", "nccl", "connection", "peer", "timed out", "process group", "socket")
    return any(sign in text for sign in signs)
