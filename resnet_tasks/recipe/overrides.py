"""`key=value` overrides from the command line, applied to a recipe before it is validated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from resnet_tasks.errors import RecipeError, limit_name
from resnet_tasks.recipe.yaml_text import KeyPath, format_key_path, parse_yaml
from resnet_tasks.registry import suggest_nearest


def apply_overrides(
    value: dict[str, Any], overrides: Sequence[str]
) -> tuple[dict[KeyPath, str], list[str]]:
    """Apply each `key=value` to `value`, in order.

    A key is a path of names and list positions (`heads.cells.options.nms_iou`,
    `data.train.0.annotations`). A value is typed by the rules of YAML (`[0.5, 0.8]` is a list).
    Unknown keys and invalid values are left to the validation. Only unknown head names and list
    positions are rejected here, because setting them would create new entries.

    Args:
        value: Parsed recipe; changed in place.
        overrides: Overrides as typed.

    Returns:
        Key path -> override that set it; and the problems.
    """
    origins: dict[KeyPath, str] = {}
    problems = []
    for text in overrides:
        try:
            _apply_override(value, text, origins)
        except RecipeError as error:
            problems.append(str(error))
    return origins, problems


def _apply_override(value: dict[str, Any], text: str, origins: dict[KeyPath, str]) -> None:
    key, equals, typed = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise RecipeError(
            f"override {limit_name(text)!r} is not of the form key=value, for example "
            "training.epochs=20"
        )
    value_to_set = parse_yaml(typed, f"override {limit_name(text)!r}").value
    target: Any = value
    path: KeyPath = ()
    for part in parts[:-1]:
        child_key = _resolve_key(target, part, path, text)
        path = (*path, child_key)
        if isinstance(target, dict) and target.get(part) is None:
            _check_head(target, path, text)
            target[part] = {}
            origins[path] = text
        target = target[child_key]
    child_key = _resolve_key(target, parts[-1], path, text)
    target[child_key] = value_to_set
    origins[(*path, child_key)] = text


def _resolve_key(target: Any, part: str, path: KeyPath, text: str) -> str | int:
    """Return the key or list position that `part` denotes inside `target`."""
    if isinstance(target, dict):
        return part
    if not isinstance(target, list):
        raise RecipeError(
            f"override {limit_name(text)!r}: {limit_name(format_key_path(path))} is "
            f"{limit_name(repr(target))}, which has no key {limit_name(part)!r}"
        )
    # `int` raises ValueError for thousands of digits.
    if not part.isdecimal() or len(part) > 9 or int(part) >= len(target):
        raise RecipeError(
            f"override {limit_name(text)!r}: {limit_name(format_key_path(path))} is a list of "
            f"length {len(target)}; got position {limit_name(part)!r}, allowed are 0 to "
            f"{len(target) - 1}; or replace the whole list: "
            f"{limit_name(format_key_path(path))}=[...]"
        )
    return int(part)


def _check_head(heads: dict[str, Any], path: KeyPath, text: str) -> None:
    """Reject an override below a head that does not exist, instead of creating the head."""
    if len(path) != 2 or path[0] != "heads":
        return
    hint = suggest_nearest(str(path[1]), heads)
    raise RecipeError(
        f"override {limit_name(text)!r}: the recipe has no head {limit_name(path[1])!r}; its "
        f"heads are {', '.join(map(limit_name, heads)) or 'none'}{hint}"
    )
