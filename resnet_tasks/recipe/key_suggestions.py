"""Suggestions for unknown keys: typing errors, other sections, and names of other frameworks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from resnet_tasks.foreign_names import HEAD, VALUE, find_keys, normalize_name
from resnet_tasks.recipe.schema_keys import iter_key_paths, list_section_keys
from resnet_tasks.recipe.yaml_text import KeyPath, format_key_path, get_value
from resnet_tasks.registry import find_nearest

MOST_SUGGESTIONS = 3
"""Number of keys that a message suggests for a section with several keys."""
TYPING_ERROR = 0.75
"""Similarity from which a key counts as misspelled, and not as another word."""
_NAMED_SECTIONS = ("heads", "combine")
"""Sections whose keys are names that the user chooses."""


def suggest_keys(path: KeyPath, document: Any) -> list[str]:
    """Suggest keys that an unknown key may stand for.

    Args:
        path: Path of the unknown key.
        document: Parsed recipe that contains it, or {} if it is in no recipe.

    Returns:
        Keys, some with a value (`training.schedule=cosine`), and options of `finetune`; an empty
        list if nothing is similar.
    """
    known_keys = list_section_keys(path[:-1])
    key = str(path[-1])
    typed = find_nearest(key, known_keys, cutoff=TYPING_ERROR)
    value = get_value(path, document)
    if typed and isinstance(value, dict):
        return [format_key_path((*path[:-1], typed))]
    # An unknown section, such as `SOLVER` or `train_cfg`, is understood by the keys inside it.
    suggestions = [
        suggestion
        for leaf in _iter_leaves(path, value)
        for suggestion in _translate(leaf, get_value(leaf, document), document)
    ] or _translate(path, value, document)
    if suggestions:
        return list(dict.fromkeys(suggestions))[:MOST_SUGGESTIONS]
    close = typed or find_nearest(key, known_keys)
    if close:
        return [format_key_path((*path[:-1], close))]
    names = {str(known_path[-1]): known_path for known_path in _list_shallow_first()}
    elsewhere = find_nearest(key, names, cutoff=TYPING_ERROR)
    return [_fill_head(_find_elsewhere(elsewhere), path, document)] if elsewhere else []


def suggest_override(name: str, value: str) -> list[str]:
    """Suggest overrides for an option, such as `training.epochs=5` for `--epochs 5`.

    Args:
        name: Name of the option, without dashes.
        value: Value of the option as typed; empty if there is none.
    """
    path = tuple(normalize_name(name).split("."))
    overrides = []
    for target in _translate(path, value or None, {}):
        if target.startswith("-"):
            overrides.append(f"{target} {value}".rstrip())
        elif list_section_keys(tuple(target.split("."))):
            continue  # an option sets a value, not a section
        else:
            overrides.append(target if "=" in target else f"{target}={value or VALUE}")
    return overrides


def _translate(path: KeyPath, value: Any, document: Any) -> list[str]:
    """Return the keys that other frameworks call by this name, else the same key elsewhere."""
    generic = [*map(str, path)]
    if len(path) > 1 and path[0] in _NAMED_SECTIONS:
        generic[1] = HEAD
    targets = [*find_keys(".".join(generic))]
    if not targets:
        elsewhere = _find_elsewhere(normalize_name(str(path[-1])))
        targets = [elsewhere] if elsewhere else []
    return [
        _fill_head(target, path, document).replace(VALUE, _format_number(value))
        for target in targets
    ]


def _find_elsewhere(name: str) -> str:
    """Return the path of the first key with this name; an empty text if there is none."""
    paths = (format_key_path(path) for path in _list_shallow_first() if path[-1] == name)
    return next(paths, "")


def _list_shallow_first() -> list[KeyPath]:
    return sorted(iter_key_paths(), key=len)


def _fill_head(target: str, path: KeyPath, document: Any) -> str:
    """Replace the placeholder of a head by the head that the path names, or the only candidate."""
    section, _, remaining = target.partition(".")
    if section not in _NAMED_SECTIONS:
        return target
    heads = document.get(section) if isinstance(document, dict) else None
    names = [*heads] if isinstance(heads, dict) else []
    if path[0] == section and len(path) > 2:
        names = [path[1]]
    # Options differ between heads, so that the first head may not have this one.
    if not names or (".options." in target and len(names) > 1):
        return target
    return f"{section}.{remaining.replace(HEAD, str(names[0]), 1)}"


def _format_number(value: Any) -> str:
    text = str(value)
    return text if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text) else VALUE


def _iter_leaves(path: KeyPath, value: Any) -> Iterator[KeyPath]:
    if isinstance(value, dict):
        for key, child in value.items():
            if isinstance(child, dict) and child:
                yield from _iter_leaves((*path, key), child)
            else:
                yield (*path, key)
