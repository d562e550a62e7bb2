"""Checks of the arguments that build a head in Python; a recipe checks its own values earlier."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from resnet_tasks.errors import HeadError, format_list
from resnet_tasks.structures.feature_spec import FeatureSpec

_SPECS = "a mapping of levels to FeatureSpec(channels, stride), such as backbone.specs"
_CLASSES = 'a list of class names, such as ["cell", "nucleus"] or read_coco(FILE).categories.names'


def check_specs(specs: Any, head: str) -> None:
    """Require the specifications of feature levels.

    Args:
        specs: First argument of a head.
        head: Name of the head's class, for the error message.

    Raises:
        HeadError: If it is not a mapping of level names to `FeatureSpec`s of positive integers.
    """
    if not isinstance(specs, Mapping):
        attribute = getattr(specs, "specs", None)
        remedy = "; pass its attribute specs" if isinstance(attribute, Mapping) else ""
        raise HeadError(
            f"head {head}: specs has the type {type(specs).__name__}; allowed: {_SPECS}{remedy}"
        )
    for level, spec in specs.items():
        if not isinstance(level, str) or not isinstance(spec, FeatureSpec):
            raise HeadError(f"head {head}: specs has {level!r}: {spec!r}; allowed: {_SPECS}")
        for name, value in (("channels", spec.channels), ("stride", spec.stride)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise HeadError(
                    f"head {head}: {name} of level {level} is {value!r}; allowed: an integer of at "
                    "least 1"
                )


def check_classes(classes: Any, head: str) -> None:
    """Require a sequence of different class names.

    Args:
        classes: Second argument of a head.
        head: Name of the head's class, for the error message.

    Raises:
        HeadError: If it is a number of classes, a single name, or another type, or if it is empty
            or holds something else than different, non-empty texts.
    """
    if not isinstance(classes, Sequence) or isinstance(classes, str | bytes):
        raise HeadError(
            f"head {head}: classes is {_describe(classes)}; allowed: {_CLASSES}"
            f"{_suggest_classes(classes)}"
        )
    if not classes:
        raise HeadError(f"head {head} needs at least one class, got none")
    others = [name for name in classes if not isinstance(name, str) or not name]
    if others:
        raise HeadError(
            f"head {head}: classes holds {format_list(map(repr, others))}; allowed: {_CLASSES}"
        )
    repeated = _find_repeated(classes)
    if repeated:
        raise HeadError(
            f"head {head}: classes holds {format_list(map(repr, repeated))} more than once; "
            "allowed: different names"
        )


def _describe(value: Any) -> str:
    if isinstance(value, str | bytes | bool | int | float | None):
        return repr(value)
    return f"of the type {type(value).__name__}"


def _suggest_classes(classes: Any) -> str:
    """Return the remedy for a value whose intended class names are recognizable."""
    if isinstance(classes, int) and not isinstance(classes, bool):
        return "; a number does not name the classes"
    if isinstance(classes, str):
        return f"; a single class is [{classes!r}]"
    if isinstance(getattr(classes, "names", None), Sequence):
        return "; pass its attribute names"
    if isinstance(classes, Iterable):
        return "; pass a list, whose order gives the labels"
    return ""


def _find_repeated(names: Sequence[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]
