"""The contract of a head as a check that anyone can run on a head of their own.

`check_head(MyHead)` builds the head on random features and raises an `AssertionError` that names
the first broken rule. It needs neither a backbone nor data.

Shape glossary: `B` batch, `H, W` padded image, `h, w` one image inside it, `N` objects, `K`
classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from resnet_tasks.errors import HeadError
from resnet_tasks.heads.base import HEADS, Head, HeadOptions
from resnet_tasks.structures.evaluation import VOID
from resnet_tasks.structures.feature_spec import FeatureSpec
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.label_table import LabelTable
from resnet_tasks.structures.loss_term import LossTerm
from resnet_tasks.structures.predictions import Classification, Detections, SegmentationMap
from resnet_tasks.structures.samples import Batch, BatchView, Sample, collate
from resnet_tasks.structures.targets import Target
from resnet_tasks.structures.tasks import Task

TargetMaker = Callable[[tuple[int, int], int, torch.Generator], Target]
"""(height, width) of an image, number of classes, random source -> what is annotated on it."""

IMAGE_SIZES = ((61, 83), (64, 90))
"""Sizes of the two images of the standard batch, neither a multiple of 32; padded to 64 x 96."""


def resnet_specs(width: int = 64, *, bottleneck: bool = False) -> dict[str, FeatureSpec]:
    """C1..C5 of a ResNet (He et al. 2016, Table 1), at any width.

    Args:
        width: Channels of the stem; 64 in the paper.
        bottleneck: Four times the channels from C2 on, as from ResNet-50 on.
    """
    expansion = 4 if bottleneck else 1
    specs = {"C1": FeatureSpec(width, 2)}
    for k in range(2, 6):
        specs[f"C{k}"] = FeatureSpec(width * expansion * 2 ** (k - 2), 2**k)
    return specs


def random_features(
    specs: Mapping[str, FeatureSpec],
    *,
    batch_size: int = 2,
    padded_size: tuple[int, int] = (64, 96),
    seed: int = 0,
) -> dict[str, Tensor]:
    """Level -> `(B, channels, H/stride, W/stride)`, not negative as after a ReLU, with gradient.

    Args:
        specs: The levels.
        batch_size: Number of images.
        padded_size: (H, W), a multiple of the coarsest stride.
        seed: The same seed gives the same features.
    """
    generator = torch.Generator().manual_seed(seed)
    features = {}
    for level, spec in specs.items():
        shape = (batch_size, spec.channels, *(size // spec.stride for size in padded_size))
        values = torch.randn(shape, generator=generator).relu()
        values = values.contiguous(memory_format=torch.channels_last)
        features[level] = values.requires_grad_()
    return features


def random_target(
    size: tuple[int, int], num_classes: int, generator: torch.Generator, *, objects: int = 3
) -> Target:
    """Boxes, labels, masks and a semantic map that agree with one another, and one image label.

    Args:
        size: (height, width) of the image; 16 x 16 at least.
        num_classes: Labels are 0..num_classes-1.
        generator: The source of all randomness.
        objects: How many; 0 gives an image that was looked at and holds nothing: no boxes, and a
            semantic map that is void throughout.
    """

    def sample_integers(low: int, high: int, shape: tuple[int, ...]) -> Tensor:
        return torch.randint(low, high, shape, generator=generator)

    height, width = size
    sizes = sample_integers(8, min(height, width) // 2 + 1, (objects, 2))
    corners = torch.stack(
        [sample_integers(0, limit // 2, (objects,)) for limit in (width, height)], dim=1
    )
    boxes = torch.cat((corners, corners + sizes), dim=1)
    labels = sample_integers(0, num_classes, (objects,))
    masks = torch.zeros(objects, height, width, dtype=torch.bool)
    semantic = torch.full(size, VOID)
    for mask, (x1, y1, x2, y2), label in zip(masks, boxes.tolist(), labels, strict=True):
        mask[y1:y2, x1:x2] = True
        semantic[mask] = label
    return Target(
        boxes=boxes.float(),
        labels=labels,
        ignore=torch.zeros(objects, dtype=torch.bool),
        masks=masks,
        semantic=semantic,
        image_labels=sample_integers(0, num_classes, (1,)),
    )


def random_batch(
    *,
    image_sizes: Sequence[tuple[int, int]] = IMAGE_SIZES,
    num_classes: int = 3,
    annotated: Sequence[bool] | None = None,
    targets: TargetMaker = random_target,
    seed: int = 0,
) -> Batch:
    """Random images of the given sizes, padded to one, with random targets.

    The first image comes from an original of twice its size, the second from one mirrored left
    to right, and so on in turn.

    Args:
        image_sizes: (height, width) of each image inside the batch.
        num_classes: Labels are 0..num_classes-1.
        annotated: Per image, whether it has a target; default: all have.
        targets: Makes each target.
        seed: The same seed gives the same batch; an image does not depend on those after it.
    """
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for i, (height, width) in enumerate(image_sizes):
        image = torch.rand(3, height, width, generator=generator)
        target = targets((height, width), num_classes, generator)
        if i % 2:
            geometry = Geometry((height, width), (height, width), (1.0, -1.0), (0.0, float(width)))
        else:
            geometry = Geometry.from_resize((2 * height, 2 * width), (height, width))
        is_annotated = annotated is None or annotated[i]
        sample_target = target if is_annotated else Target()
        samples.append(Sample(image, geometry, i, f"{i}.png", sample_target, seed=1000 * seed + i))
    return collate(samples)


def check_head(
    head: type[Head] | str,
    *,
    options: HeadOptions | Mapping[str, Any] | None = None,
    classes: Sequence[str] = ("a", "b", "c"),
    specs: Mapping[str, FeatureSpec] | None = None,
    targets: TargetMaker | None = None,
) -> None:
    """Runs every rule of the contract on a head, on random features of two small images.

    Args:
        head: The class, or the name it is registered by.
        options: Options to build it with.
        classes: Class names to build it with.
        specs: The features on offer; default: those of a narrow ResNet.
        targets: Makes an image's target; needed where the task reads fields of its own from
            `Target.extra`. Such tasks are spared the rules on images without objects, and those
            with a task unknown to this package the rules on the type of a prediction.

    Raises:
        AssertionError: If a rule is broken; the message names the rule and what was seen.
    """
    head_class = HEADS.get(head) if isinstance(head, str) else head
    subject = _HeadUnderTest(
        head_class,
        resnet_specs(16) if specs is None else specs,
        tuple(classes),
        options,
        random_target if targets is None else targets,
        uses_default_targets=targets is None,
    )
    with torch.random.fork_rng(devices=[]):
        for rule in RULES:
            torch.manual_seed(0)
            rule(subject)


@dataclass(frozen=True)
class _HeadUnderTest:
    """A head under examination and what it is built from and fed with."""

    head_class: type[Head]
    specs: Mapping[str, FeatureSpec]
    classes: tuple[str, ...]
    options: HeadOptions | Mapping[str, Any] | None
    targets: TargetMaker
    uses_default_targets: bool

    @property
    def name(self) -> str:
        return self.head_class.__name__

    def build(self, *, training: bool, seed: int = 0) -> Head:
        torch.manual_seed(seed)
        head = self.head_class(self.specs, self.classes, self.options)
        return head.to(memory_format=torch.channels_last).train(training)

    def make_batch(self, **changes: Any) -> Batch:
        changes = {"targets": self.targets, **changes}
        return random_batch(num_classes=len(self.classes), **changes)

    def make_view(self, batch: Batch, positions: Sequence[int] | None = None) -> BatchView:
        return batch.make_view(LabelTable.identity(self.classes), positions)

    def make_features(self, batch: Batch, seed: int = 0) -> dict[str, Tensor]:
        size = batch.padded_size
        return random_features(self.specs, batch_size=len(batch), padded_size=size, seed=seed)

    def require(self, condition: bool, rule: str) -> None:
        if not condition:
            raise AssertionError(f"head {self.name}: {rule}")

    @contextmanager
    def report_failures(self, activity: str) -> Iterator[None]:
        """Turns an exception into a broken rule that says what the head was asked to do."""
        try:
            yield
        except AssertionError:
            raise
        except Exception as error:
            raise AssertionError(
                f"head {self.name}: {activity} raised {type(error).__name__}: {error}"
            ) from error


def _check_declarations(subject: _HeadUnderTest) -> None:
    task = getattr(subject.head_class, "task", None)
    levels = getattr(subject.head_class, "in_levels", None)
    subject.require(isinstance(task, Task), f"`task` must be a Task, it is {task!r}")
    assert isinstance(task, Task)
    subject.require(
        len(task.target_fields) > 0,
        "`task.target_fields` is empty, so images that are not annotated would be learned from",
    )
    subject.require(
        isinstance(levels, tuple) and len(levels) > 0,
        f"`in_levels` must be a tuple that names at least one level, it is {levels!r}",
    )
    subject.require(
        subject.head_class.Options.model_config.get("extra") == "forbid",
        "`Options` must derive from HeadOptions, so that misspelled options are refused",
    )


def _check_missing_levels(subject: _HeadUnderTest) -> None:
    with subject.report_failures("construction"):
        levels = subject.build(training=False).in_levels
    for level in levels:
        offered = {name: spec for name, spec in subject.specs.items() if name != level}
        try:
            subject.head_class(offered, subject.classes, subject.options)
        except HeadError:
            continue
        except Exception as error:
            raise AssertionError(
                f"head {subject.name}: without level {level} its constructor must raise HeadError, "
                f"it raised {type(error).__name__}: {error}"
            ) from error
        raise AssertionError(
            f"head {subject.name}: it reads level {level} but can be built without it; its "
            "constructor must raise HeadError"
        )


def _check_forward_structure(subject: _HeadUnderTest) -> None:
    first_structure: dict[str, tuple[int, torch.dtype]] | None = None
    for training in (False, True):
        head = subject.build(training=training)
        for batch_size, size in ((1, (64, 96)), (2, (96, 64)), (3, (64, 64))):
            features = random_features(subject.specs, batch_size=batch_size, padded_size=size)
            with subject.report_failures(
                f"forward on {batch_size} images of {size[0]} x {size[1]}"
            ):
                raw = head(features)
            _require_tensors(subject, raw)
            for name, value in raw.items():
                subject.require(
                    value.ndim > 0 and len(value) == batch_size,
                    f"the first dimension of raw output {name!r} must be the batch ({batch_size}), "
                    f"its shape is {tuple(value.shape)}",
                )
            structure = {name: (value.ndim, value.dtype) for name, value in raw.items()}
            first_structure = structure if first_structure is None else first_structure
            subject.require(
                structure == first_structure,
                "forward must give the same names, ranks and types for every input and in both "
                f"modes, it gave {first_structure} and {structure}",
            )


def _check_forward_determinism(subject: _HeadUnderTest) -> None:
    head, features = subject.build(training=False), subject.make_features(subject.make_batch())
    first = head(features)
    torch.manual_seed(1)
    second = head(features)
    for name, value in first.items():
        subject.require(
            torch.equal(value, second[name]),
            f"raw output {name!r} differs between two calls on the same features in eval mode",
        )


def _check_loss_terms(subject: _HeadUnderTest) -> None:
    head, batch = subject.build(training=True), subject.make_batch()
    with subject.report_failures("loss"):
        terms = head.loss(subject.make_features(batch), subject.make_view(batch))
    _require_terms(subject, terms, "two annotated images")
    subject.require(
        any(float(term.count.detach()) > 0 for term in terms.values()),
        "the count of every loss term is 0 on two annotated images, so nothing is learned",
    )
    in_eval = subject.build(training=False).loss(
        subject.make_features(batch), subject.make_view(batch)
    )
    subject.require(
        set(in_eval) == set(terms),
        f"loss gives the terms {sorted(terms)} in training mode but {sorted(in_eval)} in eval mode",
    )


def _check_gradients(subject: _HeadUnderTest) -> None:
    head, batch = subject.build(training=True), subject.make_batch()
    features = subject.make_features(batch)
    _sum_terms(head.loss(features, subject.make_view(batch))).backward()  # type: ignore[no-untyped-call]
    for level in head.in_levels:
        gradient = features[level].grad
        subject.require(
            gradient is not None and bool(gradient.ne(0).any()),
            f"no gradient of the loss reaches level {level}, so the backbone does not learn from "
            "it; drop the level from `in_levels` or use it",
        )
        assert gradient is not None
        subject.require(
            bool(gradient.isfinite().all()),
            f"the gradient at level {level} is not finite",
        )
    for name, parameter in head.named_parameters():
        subject.require(
            not parameter.requires_grad or parameter.grad is not None,
            f"parameter {name} takes no part in the loss and would never learn",
        )


def _check_images_without_objects(subject: _HeadUnderTest) -> None:
    if not subject.uses_default_targets:
        return

    def make_empty_target(
        size: tuple[int, int], num_classes: int, generator: torch.Generator
    ) -> Target:
        return random_target(size, num_classes, generator, objects=0)

    head, batch = subject.build(training=True), subject.make_batch(targets=make_empty_target)
    features = subject.make_features(batch)
    with subject.report_failures("loss on images without objects"):
        terms = head.loss(features, subject.make_view(batch))
        _require_terms(subject, terms, "images without objects")
        _sum_terms(terms).backward()  # type: ignore[no-untyped-call]
    for level in head.in_levels:
        gradient = features[level].grad
        subject.require(
            gradient is None or bool(gradient.isfinite().all()),
            f"the gradient at level {level} is not finite on images without objects",
        )


def _check_unannotated_images(subject: _HeadUnderTest) -> None:
    sizes = (*IMAGE_SIZES, (50, 96))
    mixed = subject.make_batch(image_sizes=sizes, annotated=(True, False, True))
    positions = mixed.find_annotated(subject.head_class.task)
    subject.require(
        positions == (0, 2),
        f"of three images the second is not annotated, but those with all of the fields "
        f"{subject.head_class.task.target_fields} are {positions} instead of (0, 2)",
    )
    full = subject.make_batch(image_sizes=sizes)
    features = subject.make_features(mixed)
    annotated_features = {level: values[[0, 2]] for level, values in features.items()}
    head = subject.build(training=True)
    with subject.report_failures("loss on a batch with an image that is not annotated"):
        got = head.loss(annotated_features, subject.make_view(mixed, positions))
    expected = subject.build(training=True).loss(
        annotated_features, subject.make_view(full, (0, 2))
    )
    _require_equal(
        subject,
        got,
        expected,
        "an image that is not annotated must change nothing about the loss of the others",
    )


def _check_loss_additivity(subject: _HeadUnderTest) -> None:
    head, batch = subject.build(training=False), subject.make_batch()
    features = subject.make_features(batch)
    batch_terms = head.loss(features, subject.make_view(batch))
    sums: dict[str, LossTerm] = {}
    for i in range(len(batch)):
        image_features = {level: values[i : i + 1] for level, values in features.items()}
        for name, term in head.loss(image_features, subject.make_view(batch, [i])).items():
            old = sums.get(name, LossTerm(torch.zeros(()), torch.zeros(())))
            sums[name] = LossTerm(old.sum + term.sum, old.count + term.count)
    _require_equal(
        subject,
        batch_terms,
        sums,
        "sums and counts of a batch must be those of its images added up, in eval mode, so that "
        "accumulation and several processes give the same mean",
        tolerance=1e-3,
    )


def _check_loss_seeds(subject: _HeadUnderTest) -> None:
    batch = subject.make_batch()
    features, view = subject.make_features(batch), subject.make_view(batch)
    head = subject.build(training=True)
    first = head.loss(features, view)
    torch.manual_seed(12345)
    second = subject.build(training=True).loss(features, view)
    torch.manual_seed(54321)
    again = head.loss(features, view)
    rule = "the loss differs between two calls on the same batch; draw randomness from `view.seeds`"
    _require_equal(subject, second, first, rule)
    _require_equal(subject, again, first, rule)


def _check_decoding(subject: _HeadUnderTest) -> None:
    head, batch = subject.build(training=False), subject.make_batch()
    raw = head(subject.make_features(batch))
    with subject.report_failures("decode"), torch.no_grad():
        predictions = head.decode(raw, batch.geometries)
    subject.require(
        isinstance(predictions, list) and len(predictions) == len(batch),
        f"decode must give a list of one prediction per image ({len(batch)}), it gave "
        f"{type(predictions).__name__} of {len(predictions)}",
    )
    for prediction, geometry in zip(predictions, batch.geometries, strict=True):
        if head.task.name == "detection":
            _require_detections(subject, prediction, geometry)
        elif head.task.name == "semantic_segmentation":
            _require_segmentation_map(subject, prediction, geometry)
        elif head.task.name == "classification":
            _require_classification(subject, prediction)


def _check_bfloat16(subject: _HeadUnderTest) -> None:
    head, batch = subject.build(training=True), subject.make_batch()
    features = subject.make_features(batch)
    with subject.report_failures("bf16 autocast"), torch.autocast("cpu", torch.bfloat16):
        lower = {level: values.bfloat16() for level, values in features.items()}
        terms = head.loss(lower, subject.make_view(batch))
        raw = head(lower)
    _require_terms(subject, terms, "bf16 features")
    for name, value in raw.items():
        subject.require(
            not value.is_floating_point() or bool(value.isfinite().all()),
            f"raw output {name!r} is not finite under bf16 autocast",
        )
    with subject.report_failures("backward under bf16 autocast"):
        _sum_terms(terms).backward()  # type: ignore[no-untyped-call]


def _check_saving_and_loading(subject: _HeadUnderTest) -> None:
    batch = subject.make_batch()
    features = subject.make_features(batch)
    head = subject.build(training=True)
    # A training pass moves the statistics of norms, which must travel too.
    head.loss(features, subject.make_view(batch))
    head.eval()
    tensors = {name: value.contiguous() for name, value in head.state_dict().items()}
    with subject.report_failures(
        "saving its state_dict as safetensors and loading it into a fresh head"
    ):
        loaded_tensors = safetensors.torch.load(safetensors.torch.save(tensors))
        fresh = subject.build(training=False, seed=99)
        fresh.load_state_dict(loaded_tensors)
    expected, got = head(features), fresh(features)
    for name, value in expected.items():
        subject.require(
            torch.equal(value, got[name]),
            f"raw output {name!r} changes when the state_dict is loaded into a fresh head; "
            "something that it depends on is neither a parameter nor a persistent buffer",
        )


RULES: tuple[Callable[[_HeadUnderTest], None], ...] = (
    _check_declarations,
    _check_missing_levels,
    _check_forward_structure,
    _check_forward_determinism,
    _check_loss_terms,
    _check_gradients,
    _check_images_without_objects,
    _check_unannotated_images,
    _check_loss_additivity,
    _check_loss_seeds,
    _check_decoding,
    _check_bfloat16,
    _check_saving_and_loading,
)
"""In the order in which `check_head` applies them."""


def _sum_terms(terms: Mapping[str, LossTerm]) -> Tensor:
    return torch.stack([term.mean() for term in terms.values()]).sum()


def _require_tensors(subject: _HeadUnderTest, raw: Any) -> None:
    subject.require(
        isinstance(raw, dict)
        and len(raw) > 0
        and all(
            isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in raw.items()
        ),
        f"forward must give a dict of name -> tensor, it gave {type(raw).__name__}: {raw!r:.80}",
    )


def _require_terms(subject: _HeadUnderTest, terms: Any, input_description: str) -> None:
    subject.require(
        isinstance(terms, dict)
        and len(terms) > 0
        and all(isinstance(term, LossTerm) for term in terms.values()),
        f"loss must give a dict of name -> LossTerm, on {input_description} it gave {terms!r:.80}",
    )
    for name, term in terms.items():
        for part, value in (("sum", term.sum), ("count", term.count)):
            subject.require(
                isinstance(value, Tensor) and value.ndim == 0,
                f"the {part} of loss term {name!r} must be a scalar tensor, on {input_description} "
                "it is "
                f"{value!r:.80}",
            )
            subject.require(
                bool(value.isfinite()) and value.dtype not in (torch.float16, torch.bfloat16),
                f"the {part} of loss term {name!r} must be finite and of full precision, on "
                f"{input_description} it is {value.detach().item()} ({value.dtype})",
            )
        subject.require(
            term.sum.requires_grad,
            f"the sum of loss term {name!r} must carry a gradient, also where it is 0; on "
            f"{input_description} "
            "it is cut off from the features",
        )
        subject.require(
            not term.count.requires_grad and float(term.count.detach()) >= 0,
            f"the count of loss term {name!r} must be at least 0 and carry no gradient, on "
            f"{input_description} it is {float(term.count.detach())}",
        )


def _require_equal(
    subject: _HeadUnderTest,
    got: Mapping[str, LossTerm],
    expected: Mapping[str, LossTerm],
    rule: str,
    *,
    tolerance: float = 1e-5,
) -> None:
    subject.require(
        set(got) == set(expected), f"{rule}: terms {sorted(got)} and {sorted(expected)}"
    )
    for name, term in got.items():
        for part in ("sum", "count"):
            values = [getattr(loss_term, part).detach() for loss_term in (term, expected[name])]
            one, other = map(float, values)
            subject.require(
                abs(one - other) <= tolerance * max(1.0, abs(other)),
                f"{rule}: {part} of {name!r} is {one:.6g} and {other:.6g}",
            )


def _require_detections(subject: _HeadUnderTest, prediction: Any, geometry: Geometry) -> None:
    subject.require(
        isinstance(prediction, Detections),
        f"a detection head decodes into Detections, it gave {type(prediction).__name__}",
    )
    height, width = geometry.original_size
    boxes, scores, labels = prediction.boxes, prediction.scores, prediction.labels
    subject.require(
        boxes.shape == (len(scores), 4) and labels.shape == scores.shape == (len(scores),),
        f"boxes, scores and labels must be (N, 4), (N,) and (N,), they are {tuple(boxes.shape)}, "
        f"{tuple(scores.shape)} and {tuple(labels.shape)}",
    )
    subject.require(
        boxes.dtype == scores.dtype == torch.float32 and labels.dtype == torch.int64,
        "boxes and scores must be float32 and labels int64, they are "
        f"{boxes.dtype}, {scores.dtype} and {labels.dtype}",
    )
    inside = (boxes >= 0) & (boxes <= boxes.new_tensor([width, height, width, height]))
    ordered = (boxes[:, :2] < boxes[:, 2:]).all()
    subject.require(
        bool(inside.all()) and bool(ordered),
        f"decoded boxes must be xyxy inside the original image of {height} x {width} pixels",
    )
    subject.require(
        bool(((scores >= 0) & (scores <= 1)).all()) and bool((scores.diff() <= 0).all()),
        "scores must lie in 0..1 and fall",
    )
    subject.require(
        bool(((labels >= 0) & (labels < len(subject.classes))).all()),
        f"labels must be indices into the {len(subject.classes)} classes",
    )


def _require_segmentation_map(subject: _HeadUnderTest, prediction: Any, geometry: Geometry) -> None:
    subject.require(
        isinstance(prediction, SegmentationMap),
        f"a semantic head decodes into SegmentationMap, it gave {type(prediction).__name__}",
    )
    labels, probs = prediction.labels, prediction.probs
    shape = (len(subject.classes), *geometry.original_size)
    subject.require(
        tuple(labels.shape) == shape[1:] and tuple(probs.shape) == shape,
        f"labels and probs must have the original image's size, {shape[1:]} and {shape}, they "
        f"have {tuple(labels.shape)} and {tuple(probs.shape)}",
    )
    subject.require(
        labels.dtype == torch.int64 and probs.dtype == torch.float32,
        f"labels must be int64 and probs float32, they are {labels.dtype} and {probs.dtype}",
    )
    subject.require(
        bool(((labels >= 0) & (labels < len(subject.classes))).all()),
        f"labels must be indices into the {len(subject.classes)} classes",
    )
    subject.require(
        bool((probs.sum(dim=0) - 1).abs().max() < 1e-4) and bool((probs >= 0).all()),
        "the probabilities of a pixel must lie in 0..1 and sum to 1 over classes",
    )


def _require_classification(subject: _HeadUnderTest, prediction: Any) -> None:
    subject.require(
        isinstance(prediction, Classification),
        f"a classification head decodes into Classification, it gave {type(prediction).__name__}",
    )
    probs, shape = prediction.probs, (len(subject.classes),)
    subject.require(
        tuple(probs.shape) == shape and probs.dtype == torch.float32,
        f"probs must be float32 of shape {shape}, one per class; they are {probs.dtype} of shape "
        f"{tuple(probs.shape)}",
    )
    subject.require(
        bool(((probs >= 0) & (probs <= 1)).all()), "the probabilities of an image must lie in 0..1"
    )
    subject.require(
        prediction.is_multi_label or abs(float(probs.sum()) - 1) < 1e-4,
        f"the probabilities of an image must sum to 1 unless `is_multi_label`, they sum to "
        f"{float(probs.sum()):.6g}",
    )
