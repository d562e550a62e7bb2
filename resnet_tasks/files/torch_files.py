"""Reading of files of `torch.save` without unpickling code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from resnet_tasks.errors import get_first_line
from resnet_tasks.files.regular_files import require_regular_file


def load_torch_file(path: Path) -> Any:
    """Return the plain values and tensors of a file that `torch.save` wrote, on the CPU.

    Raises:
        OSError: If the file cannot be opened, or is no regular file, such as a pipe.
        pickle.UnpicklingError: If it is no pickle, or holds Python objects that could run code; the
            message of torch advises to run that code.
        ValueError: If it is damaged; the message has the reason.
    """
    require_regular_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, pickle.UnpicklingError):
        raise
    except Exception as error:  # noqa: BLE001
        # Damaged pickles raise errors of almost any class, such as IndexError or struct.error.
        # The message of a LookupError is a bare key, which does not explain anything, and that of
        # a damaged archive is several sentences long.
        is_bare = isinstance(error, (LookupError, AssertionError, EOFError))
        is_damaged = is_bare or "PytorchStreamReader" in str(error)
        reason = "it is truncated or not a file of torch.save"
        raise ValueError(reason if is_damaged else get_first_line(error)) from None
