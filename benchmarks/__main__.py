"""`python -m benchmarks NAME [options]` runs one measurement; without a name it lists them."""

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
    """Modules with a `main`: name -> first line of the docstring; nothing is imported for it."""
    titles = {}
    for path in sorted(FOLDER.glob("[!_]*.py")):
        module = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in module.body):
            titles[path.stem] = (ast.get_docstring(module) or "").partition("\n")[0]
    return titles


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the measurement named first; the rest of the words are its own.

    Returns:
        The exit code: 0, 2 after a mistake that can be mended, or 130 when stopped.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    titles = list_benchmarks()
    if not words or words[0] in ("-h", "--help"):
        print("python -m benchmarks NAME [options]\n")
        print("\n".join(f"{name:18}{title}" for name, title in titles.items()))
        return 0
    if words[0] not in titles:
        print(
            f"there is no measurement {words[0]!r}; there are {', '.join(titles)}", file=sys.stderr
        )
        return 2
    keep_freed_memory()  # the peer's too, where both are in this process
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
