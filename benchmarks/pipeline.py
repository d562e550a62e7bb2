"""From JPEG files to batches on one core (decode, augment, collate): ours and torchvision's v2.

    python -m benchmarks pipeline

Both read the same files and bring every image to one size (as stored, half of it as in the recipe
of blood cells, or shrunk by an odd factor). They flip the image and its boxes half of the time.
With color jitter they change brightness, contrast, saturation and hue by random factors of the same
ranges. The results are float batches in 0..1. Ours includes all data steps of a recipe: COCO
records, sample seeds, geometries, clipping and filtering of boxes, and padding. The peer applies
the v2 transforms to `tv_tensors` as in torchvision's documentation. It resizes and jitters uint8,
which is its fast path, and stacks the images. Ours jitters float32, so that nothing is rounded
between the steps. Everything runs in this process on one thread, like the work of a single loader
worker.

The images of both are also compared without the random steps.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.io import ImageReadMode, decode_jpeg, read_file
from torchvision.transforms import v2

from benchmarks.harness.measurement import REPEATS, finish_report, make_option_parser
from benchmarks.harness.side_by_side import BenchmarkPair, collect_environment, compare_pairs
from resnet_tasks.data.augmentation.transforms import Augmentation
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.datasets.coco_dataset import CocoDataset
from resnet_tasks.data.datasets.sample_augmentation import SampleAugmentation
from resnet_tasks.data.images.intensity import Resize
from resnet_tasks.data.images.preprocessing import Preparation
from resnet_tasks.data.sampling.loaders import make_loader
from resnet_tasks.errors import DataError
from resnet_tasks.profiling.data_loading_cost import limit_to_one_core

GOALS = {"without": 1.0, "with": 4.0}
BATCH = 4
STORED_SIZE = (480, 640)
SIZES = {"as stored": STORED_SIZE, "halved": (240, 320), "shrunk to 384x512": (384, 512)}
"""(height, width) of the images in the batches."""
OBJECTS = 8
TOLERANCE = 0.02
"""Maximum mean difference of pixels in 0..1: ours resizes by area, the peer bilinearly."""
_FLIP: dict[str, Any] = {"HorizontalFlip": {"p": 0.5}}
_JITTER = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.05}


def main(argv: Sequence[str] = ()) -> dict[str, Any]:
    """Run the benchmark, print the numbers and return the report.

    Raises:
        DataError: If the images of both do not agree.
    """
    parser = make_option_parser("pipeline", __doc__)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    options = parser.parse_args(argv)
    if options.quick:
        options.images, options.repeats = BATCH, 1
    with limit_to_one_core(), tempfile.TemporaryDirectory() as folder:
        path = generate_dataset(Path(folder), options.images)
        agreements = {size_name: _check_agreement(path, size) for size_name, size in SIZES.items()}
        pairs = [
            _build_pair(path, size_name, jitter, options.images, agreement)
            for size_name, agreement in agreements.items()
            for jitter in GOALS
        ]
        rows, runs = compare_pairs(pairs, torch.device("cpu"), options.repeats)
    report = {
        **collect_environment(torch.device("cpu")),
        "images": options.images,
        "runs": runs,
    }
    return finish_report(report, rows, options)


def generate_dataset(folder: Path, num_images: int) -> Path:
    """Generate JPEG files of soft shapes with a COCO file, the same in every call.

    Returns:
        Path of the COCO file.
    """
    rng = np.random.default_rng(0)
    height, width = STORED_SIZE
    annotations: list[dict[str, Any]] = []
    for i in range(num_images):
        # Shapes of many sizes, as in photographs; noise would take longest to decode.
        pixels = np.zeros((*STORED_SIZE, 3))
        for side in (4, 16, 64, 240):
            coarse = rng.integers(0, 256, (height // side, width // side, 3)).astype(np.uint8)
            grown = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
            pixels += np.asarray(grown) / 4
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.jpg", quality=90)
        for _ in range(OBJECTS):
            corner, sides = rng.random(2) * (400, 300), 20 + rng.random(2) * 150
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i + 1,
                    "category_id": int(rng.integers(1, 4)),
                    "bbox": [*corner.round(1).tolist(), *sides.round(1).tolist()],
                    "area": float(sides.prod()),
                    "iscrowd": 0,
                }
            )
    content = {
        "images": [
            {"id": i + 1, "file_name": f"{i}.jpg", "height": height, "width": width}
            for i in range(num_images)
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": f"class {i}"} for i in (1, 2, 3)],
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def _build_pair(
    path: Path, size_name: str, jitter: str, num_images: int, agreement: str
) -> BenchmarkPair:
    is_colored, size = jitter == "with", SIZES[size_name]
    steps = [_FLIP] + ([{"ColorJitter": {**_JITTER, "p": 1.0}}] if is_colored else [])
    return BenchmarkPair(
        f"{num_images} JPEGs of {STORED_SIZE[0]}x{STORED_SIZE[1]} to batches, {size_name}, "
        f"{jitter} color jitter",
        "same precision",
        f"torchvision {version('torchvision')} v2",
        make_our_loader(path, size, steps),
        make_peer_loader(path, _make_peer_transform(size, is_colored=is_colored)),
        GOALS[jitter],
        agreement=agreement,
    )


def make_our_loader(
    path: Path, size: tuple[int, int], steps: Sequence[dict[str, Any]]
) -> Callable[[], list[Tensor]]:
    """Make a function that loads all batches of a COCO file and reads every image again."""
    coco = read_coco(path)
    dataset = CocoDataset(
        [coco],
        categories=coco.categories,
        fields=("boxes",),
        preparation=Preparation(resize=Resize(*size, keep_ratio=False)),
        augmentation=SampleAugmentation(Augmentation(steps) if steps else None),
        cache=False,
    )
    keys = [
        [(0, i) for i in range(at, min(at + BATCH, len(dataset)))]
        for at in range(0, len(dataset), BATCH)
    ]
    return lambda: [batch.images for batch in make_loader(dataset, keys)]


def _make_resize(size: tuple[int, int]) -> list[Any]:
    return [] if size == STORED_SIZE else [v2.Resize(size, antialias=True)]


def _make_peer_transform(size: tuple[int, int], *, is_colored: bool) -> v2.Compose:
    steps = [*_make_resize(size), v2.RandomHorizontalFlip(0.5)]
    if is_colored:
        steps.append(v2.ColorJitter(**_JITTER))
    return v2.Compose([*steps, *_make_final_steps()])


def _make_final_steps() -> list[Any]:
    return [v2.SanitizeBoundingBoxes(), v2.ToDtype(torch.float32, scale=True)]


def make_peer_loader(path: Path, transform: v2.Compose) -> Callable[[], list[Tensor]]:
    """Make a function that loads all batches with torchvision; annotations stay in memory."""
    content = json.loads(path.read_text(encoding="utf-8"))
    boxes: dict[int, list[list[float]]] = {}
    labels: dict[int, list[int]] = {}
    for annotation in content["annotations"]:
        boxes.setdefault(annotation["image_id"], []).append(annotation["bbox"])
        labels.setdefault(annotation["image_id"], []).append(annotation["category_id"])

    def load_sample(record: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        file = str(path.parent / record["file_name"])
        image = decode_jpeg(read_file(file), mode=ImageReadMode.RGB)
        target = {
            "boxes": tv_tensors.BoundingBoxes(
                boxes[record["id"]],
                format="XYWH",
                canvas_size=(record["height"], record["width"]),
            ),
            "labels": torch.tensor(labels[record["id"]]),
        }
        transformed: tuple[Tensor, dict[str, Any]] = transform(tv_tensors.Image(image), target)
        return transformed

    def load_batches() -> list[Tensor]:
        with warnings.catch_warnings():
            # The decoder is deprecated, but it is still the fastest one in torchvision.
            warnings.simplefilter("ignore", DeprecationWarning)
            samples = [load_sample(record) for record in content["images"]]
        images = [image for image, _ in samples]
        return [torch.stack(images[at : at + BATCH]) for at in range(0, len(samples), BATCH)]

    return load_batches


def _check_agreement(path: Path, size: tuple[int, int]) -> str:
    """Compare the images of both without random steps, and describe the difference.

    Raises:
        DataError: If they differ by more than the tolerance.
    """
    our_images = torch.cat(make_our_loader(path, size, [])())[
        :, :, : size[0], : size[1]
    ]  # without the padding to multiples of 32 pixels
    peer_images = torch.cat(
        make_peer_loader(path, v2.Compose([*_make_resize(size), *_make_final_steps()]))()
    )
    if our_images.shape != peer_images.shape:
        raise DataError(
            f"our images have the shape {tuple(our_images.shape)}, the peer's "
            f"{tuple(peer_images.shape)}"
        )
    difference = float((our_images - peer_images).abs().mean())
    if not difference <= TOLERANCE:
        raise DataError(f"pixels are {difference:.3f} apart on average; allowed: {TOLERANCE}")
    return f"pixels {difference:.1g} apart on average"
