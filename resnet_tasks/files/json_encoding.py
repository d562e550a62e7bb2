"""The one encoder of the JSON that this package writes: numbers that are not finite become null.

Python writes NaN and infinity as `NaN` and `Infinity`, which are not JSON: browsers, `jq` and other
languages reject such a file. A metric without a value is null, too.
"""

from __future__ import annotations

import json
import math
from functools import cache
from typing import Any


def encode_json(
    value: object, *, indent: int | None = None, ensure_ascii: bool = True, sort_keys: bool = False
) -> str:
    """Return a value as JSON; numbers that are not finite are written as null.

    Args:
        value: Value of JSON-compatible types.
        indent: Spaces per nesting level; None: one line.
        ensure_ascii: Whether to escape all characters that are not ASCII.
        sort_keys: Whether to sort the keys of objects.
    """
    encoder = _make_encoder(indent, ensure_ascii, sort_keys)
    try:
        return encoder.encode(value)
    except ValueError:  # also raised for circular references, which fail again below
        return encoder.encode(_replace_non_finite(value))


@cache
def _make_encoder(indent: int | None, ensure_ascii: bool, sort_keys: bool) -> json.JSONEncoder:
    return json.JSONEncoder(
        indent=indent, ensure_ascii=ensure_ascii, sort_keys=sort_keys, allow_nan=False
    )


def _replace_non_finite(value: Any) -> Any:
    """Return a value with None in place of numbers that are not finite; as keys they are text."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {
            str(key) if isinstance(key, float) and not math.isfinite(key) else key: (
                _replace_non_finite(entry)
            )
            for key, entry in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_replace_non_finite(entry) for entry in value]
    return value
