"""Checks before training that the annotations are sufficient and valid for all heads."""

from __future__ import annotations

from collections.abc import Iterable

from resnet_tasks.assemble.heads import get_head_task
from resnet_tasks.assemble.labels import Labels
from resnet_tasks.best_metric import split_best_metric
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.data.datasets.ground_truth import map_image_labels
from resnet_tasks.data.datasets.targets import has_annotations_for
from resnet_tasks.errors import DataError, RecipeError, format_list, shorten_name
from resnet_tasks.model import TaskModel
from resnet_tasks.number_formats import Count
from resnet_tasks.recipe.schema.recipe import Recipe
from resnet_tasks.structures.label_table import LabelTable
from resnet_tasks.structures.tasks import Task


def require_annotations(
    recipe: Recipe, labels: Labels, train: CocoDataset, val: CocoDataset
) -> list[str]:
    """Require annotations to train every head on and to select the best checkpoint with.

    Args:
        recipe: Recipe of the run.
        labels: Labels of the heads.
        train: Training data.
        val: Validation data.

    Returns:
        Notes for the user on sources that are not annotated for all classes of a head, or not
        with everything that it can learn.

    Raises:
        RecipeError: If no training file is annotated for a head or one of its classes, or no
            validation file for the head that selects the best checkpoint, or if the training files
            contain no object for a head that detects objects.
        DataError: If the boxes of a file are not in pixels.
    """
    best = split_best_metric(recipe.evaluation.best or next(iter(recipe.heads)))
    best_heads = {metric.split("/")[0] for metric in best}
    notes: list[str] = []
    frozen = () if recipe.extend is None else recipe.extend.freeze or ()
    for name, head in recipe.heads.items():
        task = get_head_task(name, head)
        needs = ", ".join(task.required_fields)
        if name not in frozen and not has_annotations_for(task.required_fields, *train.files):
            is_old = recipe.extend is not None and name in recipe.extend.heads
            remedy = "name it in extend.freeze" if is_old else "remove the head"
            raise RecipeError(
                f"heads.{name}: no file under data.train annotates what {task.name} needs "
                f"({needs}); {remedy}, or add data that does"
            )
        if name in best_heads and not has_annotations_for(task.required_fields, *val.files):
            raise RecipeError(
                f"evaluation.best: no file under data.val annotates what head {name} needs "
                f"({needs}); name a metric of another head"
            )
        if name in frozen:
            continue
        table = labels.heads[name].table
        if "boxes" in task.required_fields:
            _require_objects(name, task, table, train)
            for split, dataset in (("train", train), ("val", val)):
                for file in dataset.files:
                    notes += [f"{split}: {note}" for note in file.require_pixel_boxes()]
            notes += _describe_crowd_classes(name, task, table, train)
            num_objects, num_crowds = map(sum, _count_objects(task, table, val))
            if num_crowds and not num_objects:
                notes.append(
                    f"val: {Count(num_crowds):region} of {name}'s classes with `iscrowd: 1`, but "
                    f"no object: the metrics of {name} on val are undefined"
                )
        notes += _check_optional_fields(name, task, train)
        notes += _check_partial_annotations(name, task, table, train, val)
    return notes


def require_valid_labels(model: TaskModel, datasets: Iterable[CocoDataset]) -> None:
    """Require image-level labels that every trained head can learn from (`Head.check_labels`).

    Args:
        model: Model whose heads are checked.
        datasets: Training and validation data.

    Raises:
        DataError: If a head rejects the labels of an annotated image; the message names the first
            such image and counts the others.
    """
    all_datasets = tuple(datasets)
    for name in model.trained_heads:
        head = model.named_heads[name]
        if "image_labels" not in head.task_spec.required_fields:
            continue
        problems = []
        for dataset in all_datasets:
            for index in range(len(dataset)):
                record = dataset.image_index.record(index)
                labels = map_image_labels(*record, model.label_tables[name].mapping)
                if labels is None:
                    continue
                try:
                    head.check_labels(labels, dataset.image_id(index))
                except DataError as error:
                    problems.append(str(error))
        if problems:
            more = (
                f" ({Count(len(problems) - 1):other image has} the same problem)"
                if len(problems) > 1
                else ""
            )
            raise DataError(f"heads.{name}: {problems[0]}{more}")


def _require_objects(head: str, task: Task, table: LabelTable, train: CocoDataset) -> None:
    """Require at least one object that a detection head can learn from.

    Raises:
        RecipeError: If there is none; the message counts the regions with `iscrowd: 1`.
    """
    num_objects, num_crowds = map(sum, _count_objects(task, table, train))
    if num_objects:
        return
    message = (
        f"heads.{head}: no file under data.train contains an object of its classes "
        f"({format_list(table.classes)})"
    )
    if num_crowds:
        raise RecipeError(
            f"{message}: {Count(num_crowds):region has} `iscrowd: 1`, which training ignores; if "
            "each is a single object, set its `iscrowd` to 0 (CVAT writes 1 for masks drawn with a "
            "brush, `data convert voc` for objects marked `difficult`)"
        )
    raise RecipeError(f"{message}; add annotations, or remove the head")


def _describe_crowd_classes(
    head: str, task: Task, table: LabelTable, train: CocoDataset
) -> list[str]:
    """Return a warning on the classes of a head whose objects are all crowds, if there are any."""
    # Regions of stuff are crowds in COCO.
    pairs = zip(train.categories.categories, table.mapping, strict=True)
    things = {label for category, label in pairs if category.is_thing}
    counts = zip(table.classes, *_count_objects(task, table, train), strict=True)
    classes = [
        f"{shorten_name(name)} ({Count(num_crowds):region})"
        for label, (name, num_objects, num_crowds) in enumerate(counts)
        if label in things and num_crowds and not num_objects
    ]
    if not classes:
        return []
    return [
        (
            f"warning: train: training ignores all objects of {Count(len(classes)):class} of "
            f"{head}, because they have `iscrowd: 1`: {format_list(classes)}; if each is a single "
            "object, set its `iscrowd` to 0"
        )
    ]


def _count_objects(
    task: Task, table: LabelTable, dataset: CocoDataset
) -> tuple[list[int], list[int]]:
    """Return the number of objects and of crowd regions of each class of a head."""
    num_objects, num_crowds = [0] * len(table.classes), [0] * len(table.classes)
    for file in dataset.files:
        if not has_annotations_for(task.required_fields, file):
            continue
        singles = file.count_objects()
        crowds = file.annotations.count_crowds(len(file.categories))
        for category_index, label in enumerate(table.mapping):
            if label >= 0:
                num_objects[label] += int(singles[category_index])
                num_crowds[label] += int(crowds[category_index])
    return num_objects, num_crowds


def _check_optional_fields(head: str, task: Task, train: CocoDataset) -> list[str]:
    """Return notes on training files without the annotations that a head can do without."""
    notes = []
    for field in task.optional_fields:
        lacking = [
            str(file.path)
            for file in train.files
            if has_annotations_for(task.required_fields, file)
            and not has_annotations_for((field,), file)
        ]
        if lacking and not has_annotations_for((field,), *train.files):
            notes.append(
                f"train: no file annotates {field}: {head} cannot learn {field}, and the {field} "
                f"that {head} predicts will be meaningless"
            )
        else:
            notes += [
                f"train: {path} does not annotate {field}: {head} learns only "
                f"{', '.join(task.required_fields)} from it"
                for path in lacking
            ]
    return notes


def _check_partial_annotations(
    head: str, task: Task, table: LabelTable, train: CocoDataset, val: CocoDataset
) -> list[str]:
    """Check the sources that are not annotated for all classes of a head.

    Args:
        head: Name of the head.
        task: Task of the head.
        table: Label table of the head.
        train: Training data.
        val: Validation data.

    Returns:
        Notes for the user.

    Raises:
        RecipeError: If a class is annotated in no training file, or every training file lacks a
            class, so the head cannot learn background.
    """
    head_labels = {label for label in table.mapping if label >= 0}
    missing_by_file = {
        str(file.path): _list_missing_classes(table, unknown)
        for file, unknown in zip(train.files, train.unannotated, strict=True)
        if file.images and has_annotations_for(task.required_fields, file)
    }
    for name in table.classes:
        if missing_by_file and all(name in class_names for class_names in missing_by_file.values()):
            raise RecipeError(
                f"heads.{head}: no file under data.train that {task.name} learns from lists the "
                f"category {name!r}; remove it from heads.{head}.classes, or list it in "
                "data.train[i].categories of a file that was annotated for it but has no instance"
            )
    # These heads learn background, and only from images annotated for all classes: elsewhere a
    # region without annotation may be an object of a missing class.
    learns_background = task.learns_background(table)
    if learns_background and missing_by_file and all(missing_by_file.values()):
        details = "; ".join(
            f"{file} lacks {format_list(class_names)}"
            for file, class_names in missing_by_file.items()
        )
        raise RecipeError(
            f"heads.{head}: every file under data.train lacks a category of this head "
            f"({details}), so the head has no image to learn background from; give each file its "
            "own head with its own classes (heads.NAME.classes), or list the annotated "
            "categories in data.train[i].categories"
        )
    notes = []
    if learns_background or task.is_whole_image:
        notes = [
            f"train: {file} was not annotated for {format_list(names)}: {head} does not learn from "
            "their absence"
            for file, names in missing_by_file.items()
            if names and len(names) < len(head_labels)
        ]
    if learns_background:
        notes += [
            f"val: {file.path} does not list {format_list(names)}: predictions of these classes by "
            f"{head} on its images count as wrong"
            for file, unknown in zip(val.files, val.unannotated, strict=True)
            if (names := _list_missing_classes(table, unknown))
            and has_annotations_for(task.required_fields, file)
        ]
    return notes


def _list_missing_classes(table: LabelTable, unknown: tuple[int, ...]) -> tuple[str, ...]:
    """Return the classes of a head that a source is not annotated for.

    Args:
        table: Label table of the head.
        unknown: Category indices that the source is not annotated for.
    """
    labels = [table.mapping[category_index] for category_index in unknown]
    return tuple(table.classes[label] for label in labels if label >= 0)
