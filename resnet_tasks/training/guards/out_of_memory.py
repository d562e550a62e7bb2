"""Memory that does not suffice, told as a sentence that names the settings to change."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from resnet_tasks.errors import MemoryLimitError

SIGNS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "out of shared memory",
    "is killed by signal: killed",
    "is killed by signal: bus error",
)
"""What torch says, in lower case: CUDA, MPS, the CPU's allocator, loader processes."""


@contextmanager
def translate_memory_errors(describe: Callable[[], str]) -> Iterator[None]:
    """Turns every way in which memory runs out into one error.

    Args:
        describe: What was being done, with which settings, and which to change; is called only
            when memory has run out.

    Raises:
        MemoryLimitError: If it does.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not _is_out_of_memory(error):
            raise
        reason = (str(error).splitlines() or [""])[0].strip()[:200] or type(error).__name__
        message = f"out of memory {describe()} (the system says: {reason})"
    else:
        return
    # Outside the handler: what the failed step held is freed with its traceback.
    raise MemoryLimitError(message)


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return any(sign in str(error).lower() for sign in SIGNS)


def advise_on_training_memory(
    batch_size: int, accumulation: int, size: tuple[int, int] | None
) -> str:
    """What was too large in training, and the three settings to change."""
    shape = "" if size is None else f" of {size[0]} x {size[1]} pixels (height x width)"
    smaller = "cannot be lower"
    if batch_size > 1:
        half = max(1, batch_size // 2)
        more = accumulation * -(-batch_size // half)
        smaller = f"training.batch_size={half} training.accumulation={more} keeps the step as large"
    return (
        f"in training on {batch_size} image(s){shape} at a time; lower training.batch_size (now "
        f"{batch_size}; {smaller}), make data.resize smaller, or set "
        "backbone.gradient_checkpointing=true"
    )


def advise_on_evaluation_memory(batch_size: int, size: tuple[int, int] | None) -> str:
    """What was too large in evaluation, and the three settings to change."""
    shape = "" if size is None else f" of {size[0]} x {size[1]} pixels (height x width)"
    return (
        f"in evaluation of {batch_size} image(s){shape} at a time; lower evaluation.batch_size "
        f"(now {batch_size}), make data.resize smaller, or set training.precision=bf16"
    )
