"""Class names of a dataset, from its options or from the labels that occur."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable

from resnet_tasks.errors import DataError, format_allowed


def describe_similar_names(names: Iterable[str]) -> list[str]:
    """Return a sentence for every group of names that differ only in case, spaces or form.

    Such names are often one class that was spelled in several ways.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        key = "".join(unicodedata.normalize("NFKC", name).casefold().split())
        groups.setdefault(key, []).append(name)
    return [
        f"the classes {' and '.join(map(repr, group))} differ only in case or spaces and are "
        "separate classes; if they are the same, give their objects one name in the source"
        for group in groups.values()
        if len(group) > 1
    ]


def collect_class_names(
    labels: Iterable[tuple[str, object]],
    classes: Collection[str] | None,
    *,
    shape: str = "an object",
    container: str = "file",
) -> list[str]:
    """Return the class names in order of their ids.

    Args:
        labels: Pairs of (class of an object, location of the object).
        classes: Classes given by the user; default: all classes that occur, sorted.
        shape: Kind of the objects, for the error message.
        container: Kind of the files that contain the objects, for the error message.

    Raises:
        DataError: If an object has a class that is not among the given classes.
    """
    first_seen: dict[str, object] = {}
    for label, location in labels:
        first_seen.setdefault(label, location)
    class_names = sorted(first_seen) if classes is None else list(classes)
    for label, location in first_seen.items():
        if label not in class_names:
            raise DataError(
                f"{location} has {shape} of class {label!r}; the classes are "
                f"{format_allowed(class_names)}: add this class or correct the {container}"
            )
    return class_names
