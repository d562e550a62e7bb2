"""JSON files, read whole: content, or one sentence on what is wrong with them."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from resnet_tasks.errors import DataError


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: If it is not there or no JSON, with line and column.
    """
    try:
        with disable_gc():
            return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path} is not there; mend the path, or prepare the data first") from None
    except IsADirectoryError:
        json_names = ", ".join(sorted(json_path.name for json_path in path.glob("*.json"))[:8])
        raise DataError(
            f"{path} is a folder; name a file in it ({json_names or 'no .json'})"
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}; "
            "is it complete, and the right file?"
        ) from None
    except (ValueError, RecursionError) as error:  # also of numbers with thousands of digits
        raise DataError(f"{path} is not JSON: {error}; is it the right file?") from None


@contextmanager
def disable_gc() -> Iterator[None]:
    """No garbage collection inside.

    Where millions of small objects are made and none is freed, collecting only costs time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
