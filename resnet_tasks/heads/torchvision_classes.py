"""Classes of torchvision's detectors, and the choice of the rows of a predictor by class."""

from __future__ import annotations

from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from resnet_tasks.heads.foreign_weights import FilledHead, format_names
from resnet_tasks.number_formats import Count

COCO_NAMES: tuple[str, ...] = tuple(FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"])
"""Names of the 91 rows of torchvision's COCO detectors: background, then names by category id."""
NO_CLASS = ("__background__", "N/A")


def choose_rows(
    head: FilledHead, num_rows: int, name: str, *, has_background: bool
) -> tuple[list[int] | None, str]:
    """Choose the rows of a detector's class predictor for the classes of a head.

    - With torchvision's 91 rows for COCO: if every class of the head is a COCO class, its row is
      used. Otherwise all rows are initialized at random, so that no class has an advantage.
    - Other files do not name their classes. If they have as many rows as the head needs, the rows
      are used in order.

    Args:
        head: Head that is filled.
        num_rows: Number of rows of the predictor in the file.
        name: Name of the head in the recipe, for the note.
        has_background: Whether the first row of the head belongs to the background. The predictors
            of torchvision's one-stage detectors have such a row too, but it is never learned.

    Returns:
        Rows in the order of the head, or None for random weights; and a note for the user.
    """
    background = [0] if has_background else []
    needed_rows = len(head.classes) + len(background)
    unknown_classes = [
        class_name
        for class_name in head.classes
        if class_name not in COCO_NAMES or class_name in NO_CLASS
    ]
    is_coco = num_rows == len(COCO_NAMES)
    if is_coco and not unknown_classes:
        return [*background, *(COCO_NAMES.index(class_name) for class_name in head.classes)], (
            f"heads.{name}: the box predictor keeps COCO's rows of {format_names(head.classes)}"
        )
    if num_rows == needed_rows and not is_coco:
        meaning = "background, " if has_background else ""
        return list(range(num_rows)), (
            f"heads.{name}: the box predictor's {num_rows} rows are used in order for {meaning}"
            f"{format_names(head.classes)}"
        )
    if num_rows == needed_rows + 1 and not has_background and not is_coco:
        return list(range(1, num_rows)), (
            f"heads.{name}: the box predictor's {num_rows} rows are used in order for "
            f"{format_names(head.classes)}, without the first one, the background"
        )
    reason = (
        f"{format_names(unknown_classes)} {'is' if len(unknown_classes) == 1 else 'are'} not "
        "among COCO's classes"
        if is_coco
        else f"the file has {Count(num_rows):row}, the head needs {needed_rows}"
    )
    return (
        None,
        f"heads.{name}: only the box predictor starts from random weights, because {reason}",
    )
