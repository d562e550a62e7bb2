"""`python -m resnet_tasks`, and the entry point of the command `resnet-tasks`."""

from __future__ import annotations

from resnet_tasks.cli import app


def main() -> None:
    """Runs the command line; exits with 0, 2 (a mistake that can be mended) or 130 (stopped)."""
    app(prog_name="resnet-tasks")


if __name__ == "__main__":
    main()
