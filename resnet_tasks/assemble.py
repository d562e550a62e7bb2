"""Recipe -> objects: the only translator between numbers and parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from resnet_tasks.backbone.family import Depth
from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.data.coco import Category, CategoryMap, CocoFile, read_coco
from resnet_tasks.data.copy_paste import CopyPaste
from resnet_tasks.data.dataset import CocoDataset
from resnet_tasks.data.pixels import Intensity, Resize
from resnet_tasks.data.rare_classes import NAMED_WEIGHTS, class_weights
from resnet_tasks.data.splitting import Folds
from resnet_tasks.data.statistics import Advance, count_classes, measure_channels
from resnet_tasks.data.tiled import Cut, TiledDataset
from resnet_tasks.data.tiles import Windows
from resnet_tasks.data.transforms import Augmentation
from resnet_tasks.errors import DataError, HeadError, RecipeError, ResnetTasksError
from resnet_tasks.evaluation.evaluate import best_metric
from resnet_tasks.heads import classifier, faster_rcnn, fpn, unet
from resnet_tasks.heads.base import HEADS, Head
from resnet_tasks.layers.feature_pyramid import FeaturePyramid
from resnet_tasks.model import TaskModel
from resnet_tasks.model_weights.filling import fill_model
from resnet_tasks.recipe.places import data_base
from resnet_tasks.recipe.schema import (
    BackboneRecipe,
    HeadRecipe,
    IntensityRecipe,
    ModelWeightsRecipe,
    NormalizeRecipe,
    Recipe,
    SourceRecipe,
)
from resnet_tasks.registry import did_you_mean
from resnet_tasks.structures import (
    ABSENT,
    BACKGROUND,
    CLASSIFICATION,
    IGNORED,
    SEMANTIC_SEGMENTATION,
    VOID,
    LabelTable,
    Task,
)

BUILT_IN_HEADS = (classifier, faster_rcnn, fpn, unet)
"""Importing a head's module registers it; a new built-in head is added here."""

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class HeadLabels:
    """What a head's labels mean.

    Attributes:
        classes: Names, in label order.
        category_ids: Ids in the COCO file, in label order; 0 for a background class.
        table: From the data set's category indices to the head's labels.
    """

    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    table: LabelTable


@dataclass(frozen=True)
class Labels:
    """Categories of a data set and what each head makes of them: a run's `classes.json`."""

    categories: CategoryMap
    heads: dict[str, HeadLabels]

    def to_json(self) -> dict[str, Any]:
        """As plain lists and dicts."""
        return {
            "categories": self.categories.to_json(),
            "heads": {
                name: {
                    "classes": list(each.classes),
                    "category_ids": list(each.category_ids),
                    "mapping": list(each.table.mapping),
                    "unlabelled": each.table.unlabelled,
                }
                for name, each in self.heads.items()
            },
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Labels:
        """The inverse of `to_json`."""
        heads = {}
        for name, each in value["heads"].items():
            classes = tuple(each["classes"])
            table = LabelTable(classes, tuple(each["mapping"]), int(each["unlabelled"]))
            heads[name] = HeadLabels(classes, tuple(each["category_ids"]), table)
        return cls(CategoryMap.from_json(value["categories"]), heads)


def find_data(recipe: Recipe, data_root: Path | None = None) -> Path:
    """The folder that `data.root` names.

    Args:
        recipe: Whose data is looked for.
        data_root: Folder that holds data sets; default `$RESNET_TASKS_DATA`, else `./data`.

    Raises:
        DataError: If there is no such folder.
    """
    folder = data_base(data_root) / recipe.data.root  # an absolute data.root replaces the base
    if not folder.is_dir():
        raise DataError(
            f"recipe {recipe.name}: its data folder {folder} does not exist; make it with "
            "`resnet-tasks data prepare "
            f"{recipe.data.root} --source DIR --out {folder}` (or `data convert`, see the head of "
            "the recipe), or name another place with --data-root"
        )
    return folder


def read_split(recipe: Recipe, split: Split, data_root: Path | None = None) -> list[CocoFile]:
    """The COCO files of one split.

    Raises:
        DataError: If a file is missing or wrong, or the recipe has no such split.
    """
    folder = find_data(recipe, data_root)
    if not sources_of(recipe, split):
        raise DataError(
            f"recipe {recipe.name} names no files under data.{split}; add them or choose another "
            "split"
        )
    return read_sources(recipe, split, folder)


def sources_of(recipe: Recipe, split: Split) -> tuple[SourceRecipe, ...]:
    """Where the pictures of a split are from: with `data.folds` those of val are from train."""
    name = "train" if split == "val" and recipe.data.folds is not None else split
    sources: tuple[SourceRecipe, ...] = getattr(recipe.data, name)
    return sources


def read_sources(recipe: Recipe, split: Split, folder: Path) -> list[CocoFile]:
    """The COCO files of a split, in the folder where its data are.

    Raises:
        DataError: If a file is missing or wrong, or gives other folds than the run was made with.
    """
    folds = recipe.data.folds
    if folds is None or split == "test":
        return _read_whole(recipe, split, folder)
    made = Folds.of(_read_whole(recipe, "train", folder), folds.count, seed=folds.seed)
    if folds.digest not in (None, made.digest):
        raise DataError(
            f"recipe {recipe.name}: the files under data.train are divided into other folds "
            f"({made.digest}) than when the run was started ({folds.digest}), so that pictures it "
            "was trained on may be held out; bring the files back as they were"
        )
    return made.without(folds.held_out) if split == "train" else made.only(folds.held_out)


def divided(recipe: Recipe, data_root: Path | None = None) -> Folds:
    """The folds of a recipe's training data.

    Raises:
        DataError: If a file is missing or wrong, or there are fewer groups than folds.
    """
    folds = recipe.data.folds
    assert folds is not None, "the recipe has folds"
    files = _read_whole(recipe, "train", find_data(recipe, data_root))
    return Folds.of(files, folds.count, seed=folds.seed)


def with_digest(recipe: Recipe, data_root: Path | None = None) -> Recipe:
    """The recipe with the digest of its folds, where it has folds and states none.

    Raises:
        DataError: As in `divided`.
    """
    folds = recipe.data.folds
    if folds is None or folds.digest is not None:
        return recipe
    settled = folds.model_copy(update={"digest": divided(recipe, data_root).digest})
    data = recipe.data.model_copy(update={"folds": settled})
    return recipe.model_copy(update={"data": data})


def _read_whole(recipe: Recipe, split: Split, folder: Path) -> list[CocoFile]:
    sources: tuple[SourceRecipe, ...] = getattr(recipe.data, split)
    return [
        read_coco(
            folder / source.annotations,
            images_root=None if source.images is None else folder / source.images,
            annotated=source.annotated,
            allow_outside=source.allow_outside,
        )
        for source in sources
    ]


def label_heads(recipe: Recipe, categories: CategoryMap) -> Labels:
    """What each head of the recipe makes of the data set's categories.

    Raises:
        RecipeError: If a class is unknown, or an option does not fit the head's task.
    """
    return Labels(
        categories,
        {
            name: _head_labels(name, head, _head_class(name, head).task, categories)
            for name, head in recipe.heads.items()
        },
    )


def _head_class(name: str, head: HeadRecipe) -> type[Head]:
    try:
        return HEADS.get(head.type)
    except ResnetTasksError as error:
        raise RecipeError(f"heads.{name}.type: {error}") from None


def _head_labels(name: str, head: HeadRecipe, task: Task, categories: CategoryMap) -> HeadLabels:
    names = list(categories.names)
    semantic = task == SEMANTIC_SEGMENTATION
    if head.background and not semantic:
        raise RecipeError(
            f"heads.{name}.background: only semantic heads have a background class, this is "
            f"{task.name}"
        )
    if semantic and head.others == BACKGROUND and not head.background:
        raise RecipeError(
            f"heads.{name}.others is background, which needs heads.{name}.background: true"
        )
    wanted = head.classes
    if wanted is None:
        takes_all = semantic or task == CLASSIFICATION
        wanted = tuple(each.name for each in categories.categories if takes_all or each.is_thing)
    for each in wanted:
        if each not in names:
            hint = did_you_mean(each, names)
            raise RecipeError(
                f"heads.{name}.classes: {each!r} is no category of the data set "
                f"({', '.join(names)}){hint}"
            )
    if not wanted:
        raise RecipeError(
            f"heads.{name}: the data set has no category with isthing=1 ({', '.join(names)}); "
            f"name heads.{name}.classes"
        )
    if head.background and BACKGROUND in wanted:
        raise RecipeError(
            f"heads.{name}.background: the data set has a category of that name already; set it to "
            f"false, or leave {BACKGROUND!r} out of heads.{name}.classes"
        )
    first = int(head.background)
    unknown = IGNORED
    if head.others == BACKGROUND:
        unknown = 0 if semantic else ABSENT
    positions = {each: i + first for i, each in enumerate(wanted)}
    classes = ((BACKGROUND,) if head.background else ()) + tuple(wanted)
    ids = ((0,) if head.background else ()) + tuple(
        categories.id_of(names.index(each)) for each in wanted
    )
    mapping = tuple(positions.get(each, unknown) for each in names)
    return HeadLabels(classes, ids, LabelTable(classes, mapping, 0 if head.background else VOID))


def backbone_shape(part: BackboneRecipe) -> str | Depth:
    """What `ResNet` is built from: a variant's name, or a depth of one's own."""
    return part.name if part.layers is None else Depth(part.layers, part.block)


def build_backbone(part: BackboneRecipe, weights: str, *, in_channels: int = 3) -> ResNet:
    """The backbone of a recipe.

    Args:
        part: What to build.
        weights: In place of its own.
        in_channels: Channels of a picture.

    Raises:
        ResnetTasksError: If the name, the weights or an option does not fit.
    """
    return ResNet(
        backbone_shape(part),
        weights=weights,
        in_channels=in_channels,
        frozen_stages=part.frozen_stages,
        norm=part.norm,
        output_stride=part.output_stride,
        drop_path=part.drop_path,
        gradient_checkpointing=part.gradient_checkpointing,
        accept_license=part.accept_license,
    )


def build_model(recipe: Recipe, labels: Labels, *, weights: str | None = None) -> TaskModel:
    """The model of a recipe.

    `data.normalize: data` is for `with_constants` to resolve; until then the weights' constants
    stand. Class weights that are named are for `with_class_weights`; until then all weigh 1.

    Args:
        recipe: What to build.
        labels: Classes of its heads.
        weights: In place of `backbone.weights` and `model_weights`.

    Raises:
        ResnetTasksError: If weights, levels or options do not fit; problems of all heads come
            together.
    """
    part, whole = recipe.backbone, recipe.model_weights if weights is None else None
    backbone = build_backbone(
        part,
        weights or ("unloaded" if whole else part.weights),
        in_channels=recipe.data.channels,
    )
    pyramid = _shared_pyramid(recipe, backbone)
    specs = {**backbone.specs, **({} if pyramid is None else pyramid.specs)}
    heads: dict[str, Head] = {}
    problems = _whole_in_windows(recipe)
    measured = weights_to_measure(recipe)
    for name, head in recipe.heads.items():
        options = {**head.options, "class_weights": None} if name in measured else head.options
        try:
            heads[name] = HEADS.get(head.type)(specs, labels.heads[name].classes, options)
        except HeadError as error:
            problems.append(f"recipe {recipe.name}: heads.{name}: {error}")
    if pyramid is not None and not problems:
        read = {level for head in heads.values() for level in head.in_levels}
        if not read & pyramid.specs.keys():
            problems.append(
                f"recipe {recipe.name}: pyramid: no head reads {', '.join(pyramid.specs)}; take it "
                "out"
            )
    if problems:
        raise RecipeError("\n".join(problems))
    model = TaskModel(
        backbone,
        heads,
        label_tables={name: each.table for name, each in labels.heads.items()},
        loss_weights={name: each.loss_weight for name, each in recipe.heads.items()},
        lr_scales={name: each.lr_scale for name, each in recipe.heads.items()},
        pyramid=pyramid,
    )
    if recipe.extend is not None and recipe.extend.heads:
        model.freeze(recipe.extend.freeze or ())
    if whole is not None:
        named = ModelWeightsRecipe(source=whole) if isinstance(whole, str) else whole
        fill_model(
            model,
            named.source,
            head=named.head,
            in_channels=recipe.data.channels,
            accept_license=part.accept_license,
        )
    normalise(model, recipe)
    return model


def _whole_in_windows(recipe: Recipe) -> list[str]:
    """Heads that see pictures as a whole, in a recipe that cuts them."""
    if recipe.sliding is None:
        return []
    cause = "evaluation.sliding" if recipe.data.tiles is None else "data.tiles"
    return [
        f"recipe {recipe.name}: heads.{name} says what a picture shows as a whole, which parts of "
        f"it do not tell; take {cause} out, or the head"
        for name, head in recipe.heads.items()
        if HEADS.get(head.type).task == CLASSIFICATION
    ]


def _shared_pyramid(recipe: Recipe, backbone: ResNet) -> FeaturePyramid | None:
    """The pyramid of the recipe, on C2..C5.

    Raises:
        RecipeError: If the backbone's strides do not double.
    """
    if recipe.pyramid is None:
        return None
    levels = {level: spec for level, spec in backbone.specs.items() if level != "C1"}
    try:
        return FeaturePyramid(levels, recipe.pyramid.channels)
    except HeadError as error:
        raise RecipeError(f"recipe {recipe.name}: pyramid: {error}") from None


def normalise(model: TaskModel, recipe: Recipe) -> None:
    """Gives a model the constants that the recipe states, where it states any."""
    constants = recipe.data.normalize
    if isinstance(constants, NormalizeRecipe):
        model.normalise_with(constants.mean, constants.std)


def with_constants(recipe: Recipe, train: CocoDataset, advance: Advance | None = None) -> Recipe:
    """The recipe with the constants of its training data in the place of `data.normalize: data`.

    Args:
        recipe: Whose other settings stay.
        train: The training split; all of its pictures are read.
        advance: For progress, called with (done, total).

    Raises:
        DataError: If a picture cannot be read, or a channel never changes.
    """
    mean, std = measure_channels(train, advance)
    data = recipe.data.model_copy(update={"normalize": NormalizeRecipe(mean=mean, std=std)})
    return recipe.model_copy(update={"data": data})


def weights_to_measure(recipe: Recipe) -> dict[str, str]:
    """Heads whose class weights are measured on the training data, and how.

    Raises:
        RecipeError: If there is no such way.
    """
    found = {}
    for name, head in recipe.heads.items():
        way = head.options.get("class_weights")
        known = _head_class(name, head).Options.model_fields
        if not isinstance(way, str) or "class_weights" not in known:
            continue  # numbers, or something that the head refuses
        if way not in NAMED_WEIGHTS:
            hint = did_you_mean(way, NAMED_WEIGHTS)
            raise RecipeError(
                f"heads.{name}.options.class_weights: {way!r} is no way to weigh classes; there "
                f"are {', '.join(NAMED_WEIGHTS)}, one number per class, or name -> number{hint}"
            )
        found[name] = way
    return found


def with_class_weights(
    recipe: Recipe, labels: Labels, train: CocoDataset, advance: Advance | None = None
) -> Recipe:
    """The recipe with numbers in the place of class weights that are named.

    Args:
        recipe: Whose other settings stay.
        labels: Classes of its heads.
        train: The training split; label maps of semantic heads are read.
        advance: For progress, called with (done, total), for each such head anew.

    Raises:
        DataError: If a label map cannot be read.
    """
    heads = dict(recipe.heads)
    for name, way in weights_to_measure(recipe).items():
        table, task = labels.heads[name].table, HEADS.get(heads[name].type).task
        weights = class_weights(way, count_classes(train, table, task, advance))
        named = dict(zip(labels.heads[name].classes, weights, strict=True))
        options = {**heads[name].options, "class_weights": named}
        heads[name] = heads[name].model_copy(update={"options": options})
    return recipe.model_copy(update={"heads": heads})


def build_dataset(
    recipe: Recipe, files: list[CocoFile], categories: CategoryMap, *, training: bool = False
) -> CocoDataset:
    """Samples of the given files, prepared as the recipe says; augmented when `training`."""
    data = recipe.data
    tasks = [HEADS.get(head.type).task for head in recipe.heads.values()]
    made = CocoDataset(
        files,
        categories=categories,
        fields=sorted({field for task in tasks for field in task.target_fields}),
        resize=image_resize(recipe),
        intensity=image_intensity(recipe),
        channels=data.channels,
        augment=Augmentation(recipe.augment, data.channels)
        if training and recipe.augment
        else None,
        seed=recipe.training.seed,
        cache=data.cache,
    )
    made = made.with_limit(data.max_pixels)
    if not training:
        return made
    sources = _sources_of(files, data.train)
    weighted = any(source.weight != 1 for source in sources)
    weights = [source.weight for source in sources] if weighted else None
    made = made.with_sources(weights, _looked_for(sources, categories))
    if data.repeat_factor is not None:
        made = made.with_rare_repeated(data.repeat_factor)
    if data.copy_paste is not None:
        _require_pasting(tasks, files)
        pasting = data.copy_paste
        made = made.with_copy_paste(CopyPaste(pasting.p, pasting.share, pasting.min_visible))
    if data.bad_pictures == "skip":
        made = made.skipping_bad_pictures(data.bad_pictures_limit)
    return made.with_scales(data.scales)


def training_samples(recipe: Recipe, pictures: CocoDataset) -> CocoDataset | TiledDataset:
    """What training learns from: the pictures, or tiles of them where the recipe says so.

    Args:
        recipe: With `data.tiles` or without.
        pictures: The training split, of `build_dataset`.

    Raises:
        DataError: If a semantic map cannot be read, or no tile holds anything to learn.
    """
    part = recipe.data.tiles
    if part is None:
        return pictures
    windows = Windows(part.height, part.width, part.overlap)
    cut = Cut(windows, min_visible=part.min_visible, empty=part.empty)
    return TiledDataset(pictures, cut, cache=recipe.data.cache)


def _require_pasting(tasks: Sequence[Task], files: Sequence[CocoFile]) -> None:
    """Objects can be pasted, and what they are pasted into stays true.

    Raises:
        RecipeError: Otherwise.
    """
    if CLASSIFICATION in tasks:
        raise RecipeError(
            "data.copy_paste changes what a picture shows, so that its labels as a whole no longer "
            "hold; take data.copy_paste or the classifier out"
        )
    if not any("masks" in file.annotated for file in files):
        raise RecipeError(
            "data.copy_paste needs masks, but no file under data.train annotates them; take it out"
        )


def _sources_of(files: Sequence[CocoFile], sources: Sequence[SourceRecipe]) -> list[SourceRecipe]:
    """The sources that files were read for; a fold may have left some of them out."""
    # Both are in the recipe's order, so that two paths that end alike are told apart.
    left = iter(sources)
    return [next(each for each in left if _ends_with(file.path, each)) for file in files]


def _ends_with(path: Path, source: SourceRecipe) -> bool:
    parts = Path(source.annotations).parts
    return path.parts[-len(parts) :] == parts


def _looked_for(
    sources: Sequence[SourceRecipe], categories: CategoryMap
) -> list[tuple[str, ...] | None]:
    """The categories that each training source declares; None where it leaves that to its file.

    Raises:
        RecipeError: If one is no category of the data set.
    """
    for source in sources:
        for each in source.categories or ():
            if each not in categories.names:
                hint = did_you_mean(each, categories.names)
                raise RecipeError(
                    f"data.train: categories of {source.annotations}: {each!r} is none of the data "
                    f"set ({', '.join(categories.names)}){hint}"
                )
    return [source.categories for source in sources]


def image_resize(recipe: Recipe) -> Resize | None:
    """The resize step of the recipe."""
    resize = recipe.data.resize
    return Resize(resize.height, resize.width, resize.keep_ratio) if resize else None


def image_intensity(recipe: Recipe) -> Intensity:
    """The intensity step of the recipe."""
    return intensity_of(recipe.data.intensity)


def intensity_of(step: IntensityRecipe) -> Intensity:
    """An intensity step as the data pipeline takes it."""
    return Intensity(
        step.type, step.level, step.width, step.low, step.high, per_channel=step.per_channel
    )


def check_recipe(recipe: Recipe, data_root: Path | None = None) -> str:
    """Builds everything of a recipe but weights and data; what is built in one sentence.

    Where the data is at hand its categories are used, else two made-up ones.

    Raises:
        ResnetTasksError: What would stop `finetune` before its first step.
    """
    try:
        categories = merged_categories(read_split(recipe, "train", data_root))
        source = f"{len(categories)} categories of its data"
    except DataError:
        categories = made_up_categories(recipe)
        source = "made-up categories, its data being absent"
    model = _built_whole(recipe, categories)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    heads = ", ".join(f"{name} ({head.type})" for name, head in recipe.heads.items())
    shape = backbone_shape(recipe.backbone)
    return f"{recipe.name}: {shape} with {heads}, {millions:.1f} M parameters, {source}"


def made_up_categories(recipe: Recipe) -> CategoryMap:
    """Those that the heads name, or two, where the recipe's data is absent."""
    wanted = [name for head in recipe.heads.values() for name in head.classes or ()]
    names = list(dict.fromkeys(wanted)) or ["first", "second"]
    return CategoryMap(tuple(Category(i + 1, name) for i, name in enumerate(names)))


def _built_whole(recipe: Recipe, categories: CategoryMap) -> TaskModel:
    """The model of a recipe without its weights, after every part of the recipe was looked at.

    Raises:
        RecipeError: With the problems of all parts, a line each.
    """
    problems: list[str] = []
    models: list[TaskModel] = []
    part = recipe.backbone
    # Weights are not loaded; whether parts may be frozen depends on there being any.
    has_weights = part.weights != "none" or recipe.model_weights is not None
    weights = "unloaded" if has_weights else "none"

    def check_backbone() -> None:
        shape = backbone_shape(part)
        if isinstance(shape, Depth) and recipe.model_weights is None:
            shape.check_weights(part.weights)
        build_backbone(part, weights)

    def build_heads() -> None:
        plain = part if not problems else BackboneRecipe(name="resnet18")  # to look at heads anyway
        made = recipe.model_copy(update={"backbone": plain})
        labels = label_heads(made, categories)
        models.append(build_model(made, labels, weights="unloaded"))
        best_metric(models[0].named_heads, recipe.evaluation.best, recipe.evaluation.extra)

    def build_augmentation() -> None:
        Augmentation(recipe.augment, recipe.data.channels)

    for build in (check_backbone, build_heads, build_augmentation):
        try:
            build()
        except ResnetTasksError as error:
            problems.append(str(error))
    if problems:
        raise RecipeError("\n".join(problems))
    return models[0]


def merged_categories(files: list[CocoFile]) -> CategoryMap:
    """The one category list of several files.

    Raises:
        DataError: If they disagree.
    """
    return CategoryMap.merged([file.categories for file in files])


__all__ = [
    "HeadLabels",
    "Labels",
    "ResnetTasksError",
    "build_dataset",
    "build_model",
    "check_recipe",
    "divided",
    "find_data",
    "intensity_of",
    "label_heads",
    "made_up_categories",
    "merged_categories",
    "normalise",
    "read_sources",
    "read_split",
    "sources_of",
    "weights_to_measure",
    "with_class_weights",
    "with_constants",
    "with_digest",
]
