"""Check of JSON by its standard: Python also reads `NaN` and `Infinity`, which it does not have."""

from __future__ import annotations

import json


def require_json(text: str, *, is_lines: bool = False) -> None:
    """Require valid JSON, or one valid value per line."""
    for part in text.splitlines() if is_lines else [text]:
        json.loads(part, parse_constant=reject)


def reject(name: str) -> None:
    """Reject a constant that JSON does not have."""
    raise AssertionError(f"{name} is not JSON")
