"""Check that worker processes can import the main script without running it again."""

from __future__ import annotations

import ast
import multiprocessing
import sys
from functools import lru_cache
from pathlib import Path
from types import FrameType

from resnet_tasks.errors import RunError

GUARD = 'if __name__ == "__main__":'
_GUARD_NAMES = {"__name__", "parent_process", "current_process"}
"""Names in conditions that tell the main process from its workers."""


def require_main_guard(start_method: str | None = None) -> None:
    """Refuse to start workers from a script that would start them again in every worker.

    Workers that are not forked import the main script, and so run all of its code outside of the
    guard. `multiprocessing` reports this in each worker by a traceback, while the main process
    waits or fails for another reason.

    Args:
        start_method: Start method of the workers; None: the default of the process.

    Raises:
        RunError: If the workers are not forked, and the running line of the main script is outside
            of `if __name__ == "__main__":`.
    """
    # Without `allow_none`, a question would fix the method of the process.
    method = start_method or multiprocessing.get_start_method(allow_none=True)
    method = method or multiprocessing.get_all_start_methods()[0]
    if method == "fork" or (position := _find_running_line()) is None:
        return
    file, line = position
    if _is_guarded(file, line):
        return
    raise RunError(
        f"{file}, line {line} starts worker processes outside of `{GUARD}`, but workers with the "
        f"start method {method} import this file and would run the line again; move the code into "
        "this block, or use no workers (finetune: workers=0, recipe: data.workers=0)"
    )


def _find_running_line() -> tuple[Path, int] | None:
    """Return the main script that workers import, and its running line at module level.

    None if workers import none (interactive, `python -c`, the `__main__` module of a package), or
    the script does not run in this thread.
    """
    main = sys.modules["__main__"]
    file, spec = getattr(main, "__file__", None), getattr(main, "__spec__", None)
    if file is None or (spec is not None and spec.name.rpartition(".")[2] == "__main__"):
        return None
    # `inspect.stack` would read the source of every frame.
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_globals is vars(main):
            return Path(file), frame.f_lineno
        frame = frame.f_back
    return None


@lru_cache(maxsize=8)
def _is_guarded(file: Path, line: int) -> bool:
    """Return whether a line is inside a guard, or after one that ends the workers' import."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return True  # not a readable source file, so nothing is known about it
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and _collect_names(node.test) & _GUARD_NAMES:
            is_inside = node.lineno <= line <= (node.end_lineno or node.lineno)
            is_early_exit = node.lineno < line and any(
                isinstance(operator, ast.NotEq)
                for compare in ast.walk(node.test)
                if isinstance(compare, ast.Compare)
                for operator in compare.ops
            )
            if is_inside or is_early_exit:
                return True
    return False


def _collect_names(test: ast.expr) -> set[str]:
    names = {node.id for node in ast.walk(test) if isinstance(node, ast.Name)}
    return names | {node.attr for node in ast.walk(test) if isinstance(node, ast.Attribute)}
