"""Entry point: `python -m benchmarks NAME [options]` runs a benchmark; without NAME, lists all."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from resnet_tasks.errors import ResnetTasksError
from resnet_tasks.runtime.malloc import keep_freed_memory

FOLDER = Path(__file__).parent


def list_benchmarks() -> dict[str, str]:
    """List the modules with a `main` as name -> first line of the docstring, without imports."""
    titles = {}
    for path in sorted(FOLDER.glob("[!_]*.py")):
        module = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in module.body):
            titles[path.stem] = (ast.get_docstring(module) or "").partition("\n")[0]
    return titles


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark that the first argument names with the remaining arguments.

    Returns:
        Exit code: 0, 2 after a user error, or 130 after an interrupt.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    titles = list_benchmarks()
    if not words or words[0] in ("-h", "--help"):
        print("python -m benchmarks NAME [options]\n")
        print("\n".join(f"{name:24}{title}" for name, title in titles.items()))
        return 0
    if words[0] not in titles:
        print(
            f"there is no benchmark {words[0]!r}; available: {', '.join(titles)}", file=sys.stderr
        )
        return 2
    keep_freed_memory()  # also for the peer, if both run in this process
    try:
        importlib.import_module(f"benchmarks.{words[0]}").main(words[1:])
    except ResnetTasksError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
