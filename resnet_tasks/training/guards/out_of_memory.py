"""Translation of out-of-memory errors to a message that names the settings to change."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from resnet_tasks.errors import MemoryLimitError, get_first_line

SIGNS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "out of shared memory",
    "is killed by signal: killed",
    "is killed by signal: bus error",
)
"""Parts of torch's error messages in lower case: CUDA, MPS, CPU allocator, loader workers."""


@contextmanager
def translate_memory_errors(describe: Callable[[], str]) -> Iterator[None]:
    """Translate every kind of out-of-memory error inside the block to a `MemoryLimitError`.

    Args:
        describe: Function that returns the operation, its settings and those to change; called
            only when memory has run out.

    Raises:
        MemoryLimitError: If memory runs out.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not _is_out_of_memory(error):
            raise
        reason = get_first_line(error)[:200]
        message = f"out of memory {describe()} (original error: {reason})"
    else:
        return
    # Raised outside the handler: otherwise the traceback would keep the failed step's tensors.
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
    """Return a text on the training step that ran out of memory and the settings to change.

    Args:
        batch_size: Images per batch.
        accumulation: Batches per step.
        size: (H, W) of the batch in pixels, padding included; None if unknown.
    """
    shape = "" if size is None else f" and images of {size[0]} x {size[1]} pixels (height x width)"
    smaller_batch = ""
    if batch_size > 1:
        half = batch_size // 2
        more = accumulation * -(-batch_size // half)
        smaller_batch = (
            f"lower training.batch_size (now {batch_size}; training.batch_size={half} "
            f"training.accumulation={more} keeps the effective batch size), "
        )
    return (
        f"while training with a batch size of {batch_size}{shape}; {smaller_batch}make "
        "data.resize smaller, or set backbone.gradient_checkpointing=true"
    )


def advise_on_evaluation_memory(batch_size: int, size: tuple[int, int] | None) -> str:
    """Return a text on the evaluation that ran out of memory and the settings to change.

    Args:
        batch_size: Images per forward pass.
        size: (H, W) of the last training batch in pixels, padding included; None if unknown.
    """
    shape = "" if size is None else f" and images of {size[0]} x {size[1]} pixels (height x width)"
    smaller_batch = f"lower evaluation.batch_size (now {batch_size}), " if batch_size > 1 else ""
    return (
        f"while evaluating with a batch size of {batch_size}{shape}; {smaller_batch}make "
        "data.resize smaller, or set training.precision=bf16"
    )
