"""Process group of one training: ranks, exchange of values, and work of the main process.

The processes are started by `torchrun` or `accelerate launch`. Python values are exchanged over a
separate gloo group on the CPU, so that the same code works with and without GPUs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, TypeVar

import torch
from accelerate.state import AcceleratorState, PartialState
from torch import distributed, nn

from resnet_tasks.errors import RecipeError, ResnetTasksError, RunError
from resnet_tasks.runtime.console import Console
from resnet_tasks.runtime.devices import resolve_device
from resnet_tasks.runtime.keep_alive import enable_keep_alive
from resnet_tasks.runtime.signals import ignore_next_sigterm

Value = TypeVar("Value")


@dataclass(frozen=True)
class DistributedContext:
    """Rank of this process, and its communication with the other processes of the run.

    Attributes:
        index: Rank of this process, from 0. Rank 0 is the main process, which writes files and
            prints.
        count: Number of processes of the run.
        local_index: Rank among the processes of this machine; the index of its GPU.
        group: gloo process group that carries Python values; None for a single process.
    """

    index: int = 0
    count: int = 1
    local_index: int = 0
    group: Any = None

    @classmethod
    def start(cls, device: torch.device) -> DistributedContext:
        """Join the process group of this run; without a launcher, return a single process.

        Accelerate keeps its settings for the lifetime of the Python process, so that one run would
        affect the next one. They are reset here.

        Args:
            device: Device of the recipe; `cpu` selects gloo, others the backend that suits them.
        """
        AcceleratorState._reset_state()
        PartialState._reset_state()
        state = PartialState(cpu=device.type == "cpu")
        if state.num_processes == 1:
            return cls()
        group = distributed.new_group(backend="gloo")
        enable_keep_alive()
        return cls(
            index=state.process_index,
            count=state.num_processes,
            local_index=state.local_process_index,
            group=group,
        )

    @property
    def is_main(self) -> bool:
        """True in the main process, which writes the files and prints."""
        return self.index == 0

    def select_console(self, console: Console) -> Console:
        """Return `console` in the main process, and a quiet console in the others."""
        return console if self.is_main else Console(quiet=True)

    def run_on_main(self, compute: Callable[[], Value]) -> Value:
        """Call a function in the main process; return its result, or raise its error, in all.

        Args:
            compute: Function without arguments whose result can be pickled.

        Raises:
            ResnetTasksError: If `compute` raises it in the main process.
            RunError: If another process has ended or does not answer.
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
        """Return the values of all processes, in order of rank, in all of them.

        Raises:
            RunError: If another process has ended or does not answer.
        """
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        with self.translate_communication_errors():
            distributed.all_gather_object(values, value, group=self.group)
        return values

    def collect(self, value: Value) -> list[Value]:
        """Return the values of all processes, in order of rank; an empty list outside the main one.

        Raises:
            RunError: If another process has ended or does not answer.
        """
        if self.count == 1:
            return [value]
        values: list[Any] | None = [None] * self.count if self.is_main else None
        # Unpickling would put a CUDA tensor on the GPU of its sender.
        with self.translate_communication_errors():
            distributed.gather_object(_move_to_cpu(value), values, dst=0, group=self.group)
        return values or []

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over all processes, in place, and return it.

        Raises:
            RunError: If another process has ended or does not answer.
        """
        if self.count > 1:
            with self.translate_communication_errors():
                distributed.all_reduce(tensor)
        return tensor

    def broadcast_buffers(self, module: nn.Module) -> None:
        """Copy the main process's buffers of a module (batch-norm statistics) to all processes.

        Raises:
            RunError: If another process has ended or does not answer.
        """
        if self.count > 1:
            with self.translate_communication_errors():
                for buffer in module.buffers():
                    distributed.broadcast(buffer, src=0)

    @contextmanager
    def translate_communication_errors(self) -> Iterator[None]:
        """Translate communication failures inside the block to a `RunError`.

        Raises:
            RunError: If another process has ended or does not answer.
        """
        try:
            yield
        except RuntimeError as error:
            if self.count == 1 or not _is_peer_failure(error):
                raise
            ignore_next_sigterm()
            raise RunError(
                f"process {self.index} of {self.count}: another process of this run has ended or "
                "does not answer; its own message or the launcher's summary names the cause (exit "
                "code -9: it was killed, for example because memory ran out). The written files "
                "stay readable: fix the cause and continue with --resume"
            ) from error

    def leave(self) -> None:
        """Leave the process group, which fails pending exchanges of the others.

        A single process does nothing.
        """
        if self.count > 1 and distributed.is_initialized():
            distributed.destroy_process_group()
            AcceleratorState._reset_state()
            PartialState._reset_state()


SINGLE_PROCESS = DistributedContext()
"""Context of a process that trains alone."""


def resolve_process_device(name: str, processes: DistributedContext) -> torch.device:
    """Return the device of this process; with several processes each one gets its own GPU.

    Args:
        name: Device of the recipe: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        processes: Process group of the run.

    Raises:
        RecipeError: If there is no such device, or the machine has more processes than GPUs.
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
    """Return a value with its tensors on the CPU, inside lists, tuples, dicts and dataclasses."""
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
    # torch has no error class for this: gloo and NCCL raise RuntimeErrors with these texts.
    text = str(error).lower()
    signs = ("gloo", "nccl", "connection", "peer", "timed out", "process group", "socket")
    return any(sign in text for sign in signs)
