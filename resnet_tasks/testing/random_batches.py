"""Random features, annotations and batches for testing heads without a dataset.

Shape glossary: `B` batch size, `H, W` padded image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from resnet_tasks.structures.evaluation import VOID
from resnet_tasks.structures.feature_spec import FeatureSpec
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.instance_masks import InstanceMasks, make_ellipse
from resnet_tasks.structures.samples import Batch, Sample, collate
from resnet_tasks.structures.targets import Target

TargetMaker = Callable[[tuple[int, int], int, torch.Generator], Target]
"""Function of (height, width) of an image, number of classes and random generator -> target."""

IMAGE_SIZES = ((61, 83), (64, 90))
"""Sizes of the two images of the standard batch; the batch is padded to 64 x 96."""


def resnet_specs(width: int = 64, *, bottleneck: bool = False) -> dict[str, FeatureSpec]:
    """Return the specs of C1..C5 of a ResNet (He et al. 2016, Table 1) of any width.

    Args:
        width: Channels of the stem; 64 in the paper.
        bottleneck: Whether C2..C5 have four times the channels, as in ResNet-50 and deeper nets.
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
    """Make random features: level -> `(B, channels, H/stride, W/stride)`, rounded up.

    They are not negative, as after a ReLU, and require a gradient.

    Args:
        specs: Channels and stride of the levels.
        batch_size: Number of images.
        padded_size: (H, W), a multiple of the coarsest stride.
        seed: Random seed; the same seed gives the same features.
    """
    generator = torch.Generator().manual_seed(seed)
    features = {}
    for level, spec in specs.items():
        # Rounded up, as strided convolutions do: P6 and P7 have larger strides than the batch.
        shape = (batch_size, spec.channels, *(-(-size // spec.stride) for size in padded_size))
        values = torch.randn(shape, generator=generator).relu()
        values = values.contiguous(memory_format=torch.channels_last)
        features[level] = values.requires_grad_()
    return features


def random_target(
    size: tuple[int, int], num_classes: int, generator: torch.Generator, *, objects: int = 3
) -> Target:
    """Make boxes, labels, masks and a semantic map that agree with each other, and an image label.

    Each object is the ellipse that touches the sides of its box.

    Args:
        size: (height, width) of the image, at least 16 x 16.
        num_classes: Number of classes; labels are 0..num_classes-1.
        generator: Generator of all random numbers.
        objects: Number of objects. 0 gives an image that is annotated as empty: without boxes, and
            with a semantic map that is entirely void.
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
    semantic = torch.full(size, VOID)
    bitmaps = []
    for (x1, y1, x2, y2), label in zip(boxes.tolist(), labels, strict=True):
        ellipse = make_ellipse((y2 - y1, x2 - x1))
        bitmaps.append(ellipse)
        semantic[y1:y2, x1:x2][ellipse] = label
    return Target(
        boxes=boxes.float(),
        labels=labels,
        ignore=torch.zeros(objects, dtype=torch.bool),
        masks=InstanceMasks.from_bitmaps(bitmaps, [(x, y) for x, y, _, _ in boxes.tolist()]),
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
    """Make random images of the given sizes with random targets, padded to a common size.

    The first image is resized from an original of twice its size. The second is mirrored left to
    right. Further images alternate between the two.

    Args:
        image_sizes: (height, width) of each image inside the batch.
        num_classes: Number of classes; labels are 0..num_classes-1.
        annotated: Whether each image has a target; default: all have one.
        targets: Function that makes each target.
        seed: Random seed. The same seed gives the same batch, and an image does not depend on
            the images after it.
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
