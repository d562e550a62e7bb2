"""Scripts that start workers outside of the main guard are refused before they start any."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
IMPORT = "from resnet_tasks.runtime.main_guard import require_main_guard\n"
START = "require_main_guard({method!r})\nprint('started')\n"
INSIDE = "    require_main_guard({method!r})\n    print('started')\n"
REFUSED = (
    'line {line} starts worker processes outside of `if __name__ == "__main__":`, but workers with '
    "the start method {method} import this file"
)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("code", "line"),
    [
        (IMPORT + START, 2),
        (IMPORT + "def main():\n" + INSIDE + "main()\n", 5),
        (IMPORT + "import sys\nif len(sys.argv) < 9:\n" + INSIDE, 4),
        (IMPORT + "if __name__ == '__main__':\n    pass\n" + START, 4),
    ],
)
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_script_without_a_guard(code: str, line: int, method: str, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(code.format(method=method), encoding="utf-8")
    result = run(str(script))
    assert REFUSED.format(line=line, method=method) in result.stderr
    assert f"RunError: {script}, line" in result.stderr
    assert "started" not in result.stdout


@pytest.mark.parametrize(
    ("code", "method"),
    [
        (IMPORT + START, "fork"),
        (
            IMPORT + "import multiprocessing as mp\nrequire_main_guard()\n"
            "mp.set_start_method('fork')\nprint('started')\n",
            "fork",
        ),
        (IMPORT + "if __name__ == '__main__':\n" + INSIDE, "spawn"),
        (IMPORT + "if '__main__' == __name__ and True:\n" + INSIDE, "spawn"),
        (IMPORT + "def main():\n" + INSIDE + "if __name__ == '__main__':\n    main()\n", "spawn"),
        (IMPORT + "import sys\nif __name__ != '__main__':\n    sys.exit()\n" + START, "spawn"),
        (
            IMPORT + "import multiprocessing\nif multiprocessing.parent_process() is None:\n"
            "    require_main_guard({method!r})\n    print('started')\n",
            "spawn",
        ),
    ],
)
def test_a_script_with_a_guard_or_forked_workers(code: str, method: str, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(code.format(method=method), encoding="utf-8")
    result = run(str(script))
    assert (result.stdout, result.stderr) == ("started\n", "")


def test_code_that_workers_do_not_import() -> None:
    result = run("-c", (IMPORT + START).format(method="spawn"))
    assert (result.stdout, result.stderr) == ("started\n", "")
