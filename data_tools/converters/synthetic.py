"""Synthetic microscope scenes of three kinds of cells, with exact boxes, masks and label maps.

The dataset needs no download. It is meant for trying out the toolkit and for testing that training
works. Color and brightness alone do not solve it: the light is uneven, a cell may be brighter or
darker than its surroundings, all classes share their colors with each other and with debris that is
not annotated, and cells touch, overlap and leave the frame. The classes differ in shape and inner
texture:

    granular   round, a dark off-center nucleus with granules
    striated   bent rods with bands across
    lobed      star-like outline with bright vacuoles

Shapes: `H, W` is one scene, `h, w` the patch that contains one cell. Images are float32 RGB in 0..1
until they are written. Coordinates are (x, y) in pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from data_tools.reading.image_io import write_image
from data_tools.writing.coco_writer import CategorySpec, CocoWriter
from data_tools.writing.dataset_writer import DatasetWriter
from data_tools.writing.progress import Progress, track_splits
from data_tools.writing.split_summary import SplitSummary
from resnet_tasks.errors import DataError

Float = NDArray[np.floating[Any]]

CLASSES = ("granular", "striated", "lobed")
SMALLEST_VISIBLE = 0.25
"""Visible fraction below which a cell is skipped and counted."""
JPEG_QUALITY = 95
POLYGON_SCALE = 4
"""Factor by which a mask is enlarged before tracing, so that polygons follow pixel edges, not
centers."""


@dataclass(frozen=True)
class SyntheticCell:
    """One drawn cell.

    Attributes:
        category: Name of the class.
        mask: (H, W) bool, visible pixels.
        visible_fraction: Visible fraction of the cell, including its part outside the frame, 0..1.
    """

    category: str
    mask: NDArray[np.bool_]
    visible_fraction: float


@dataclass(frozen=True)
class SyntheticScene:
    """One drawn image and its cells, from bottom to top.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        cells: All drawn cells, without debris.
    """

    image: NDArray[np.uint8]
    cells: tuple[SyntheticCell, ...]

    def to_label_map(self) -> NDArray[np.int64]:
        """Return the (H, W) category ids (1..3), 0 for background."""
        ids = np.zeros(self.image.shape[:2], dtype=np.int64)
        for cell in self.cells:
            ids[cell.mask] = CLASSES.index(cell.category) + 1
        return ids


def make_cells(
    out: Path,
    *,
    train: int = 240,
    val: int = 40,
    seed: int = 0,
    size: tuple[int, int] = (192, 256),
    image_format: Literal["jpg", "png"] = "jpg",
    progress: Progress | None = None,
) -> tuple[SplitSummary, ...]:
    """Write `train` and `val` scenes with their annotations into `out`.

    The same arguments give the same bytes. A scene depends only on the seed, its split and its
    number, so a longer run starts with the scenes of a shorter one.

    Args:
        out: Output folder, filled with `train.json`, `val.json`, `images/` and `semantic/`.
        train: Number of training scenes.
        val: Number of validation scenes, none of which is a training scene.
        seed: Seed of the random numbers, 0 or more.
        size: (height, width) of a scene, 96 or more each.
        image_format: File type of the images.
        progress: Function called with (done, total) after each scene.

    Returns:
        Summary of the written data, one per split.

    Raises:
        DataError: If an argument is out of range or the JSON files already exist.
    """
    if train < 1 or val < 1 or seed < 0 or min(size) < 96:
        raise DataError(
            f"make_cells got train={train}, val={val}, seed={seed}, size={size}; it needs at least "
            "one scene of each split, a seed of 0 or more, and 96 pixels or more in each direction"
        )
    dataset = DatasetWriter(
        out,
        [CategorySpec(name) for name in CLASSES],
        annotated=("boxes", "masks", "semantic"),
        description=f"Synthetic cells, seed {seed}",
        license_name="CC0-1.0",
    )
    splits = {"train": range(train), "val": range(val)}

    def add_scene(writer: CocoWriter, index: int) -> None:
        rng = np.random.default_rng([seed, list(splits).index(writer.split), index])
        name = Path("images", writer.split, f"cells_{index:05d}.{image_format}")
        _add_scene(writer, render_scene(rng, size), out / name)

    return dataset.write(track_splits(splits, progress), add_scene)


def render_scene(rng: np.random.Generator, size: tuple[int, int]) -> SyntheticScene:
    """Draw background, debris, cells and camera effects, in that order.

    Args:
        rng: Random number generator.
        size: (height, width) of the scene.
    """
    image = _render_background(rng, size)
    for _ in range(int(rng.integers(5, 11))):
        _add_debris(rng, image)
    rendered: list[tuple[str, NDArray[np.bool_], float]] = []
    for center in _sample_centers(rng, size):
        category = CLASSES[int(rng.integers(len(CLASSES)))]
        coverage, light = _PAINTERS[category](rng)
        mask = _blend_patch(image, coverage, light, _sample_tint(rng), center)
        full_area = float((coverage > 0.5).sum())
        # The new cell hides the pixels of earlier cells that it covers.
        rendered = [(name, below & ~mask, full) for name, below, full in rendered]
        rendered.append((category, mask, full_area))
    cells = tuple(
        SyntheticCell(name, mask, float(mask.sum()) / full_area)
        for name, mask, full_area in rendered
    )
    return SyntheticScene(_simulate_camera(rng, image), cells)


def _add_scene(writer: CocoWriter, scene: SyntheticScene, file: Path) -> None:
    write_image(
        file, scene.image, *([cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] * (file.suffix == ".jpg"))
    )
    height, width = scene.image.shape[:2]
    image_id = writer.add_image(file, size=(height, width))
    semantic = scene.to_label_map()
    for index, cell in enumerate(scene.cells):
        if cell.visible_fraction < SMALLEST_VISIBLE:
            writer.report.skip(
                file.name,
                f"{cell.category} number {index}",
                f"{cell.visible_fraction:.0%} of it is visible",
            )
            semantic[cell.mask] = writer.void
            continue
        # Half of the objects are polygons, half run lengths, so that readers are tested on both.
        polygons = trace_polygons(cell.mask) if index % 2 == 0 else None
        writer.add_mask(image_id, cell.category, cell.mask, polygons=polygons)
    writer.add_semantic(image_id, semantic)


def trace_polygons(mask: NDArray[np.bool_]) -> list[list[float]]:
    """Return flat `[x0, y0, x1, y1, ...]` polygons around the parts of a (H, W) mask."""
    large = cv2.resize(
        mask.astype(np.uint8),
        None,
        fx=POLYGON_SCALE,
        fy=POLYGON_SCALE,
        interpolation=cv2.INTER_NEAREST,
    )
    contours, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    polygons = []
    for contour in contours:
        points = cv2.approxPolyDP(contour, POLYGON_SCALE / 2, closed=True).reshape(-1, 2)
        if len(points) >= 3:
            corners = (points.astype(np.float64) + 0.5) / POLYGON_SCALE
            polygons.append([round(float(value), 2) for value in corners.ravel()])
    return polygons


def _render_background(rng: np.random.Generator, size: tuple[int, int]) -> Float:
    """Return (H, W, 3) tinted light with a gradient, a vignette and structure at three scales."""
    height, width = size
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    light = 1 + rng.uniform(0.05, 0.18) * (np.cos(angle) * x + np.sin(angle) * y)
    center = rng.uniform(-0.4, 0.4, 2)
    light -= rng.uniform(0.08, 0.22) * ((x - center[0]) ** 2 + (y - center[1]) ** 2)
    light += (
        0.06 * _sample_noise(rng, size, 40)
        + 0.045 * _sample_noise(rng, size, 10)
        + 0.03 * _sample_noise(rng, size, 3)
    )
    base = rng.uniform(0.52, 0.66) * (1 + rng.uniform(-0.09, 0.09, 3))
    image: Float = (light[..., None] * base).astype(np.float32)
    return image


def _sample_noise(rng: np.random.Generator, size: tuple[int, int], scale: float) -> Float:
    """Return (H, W) noise of mean 0 and deviation near 1, with spots of about `scale` pixels."""
    coarse = (int(size[0] / scale) + 3, int(size[1] / scale) + 3)
    values = rng.standard_normal(coarse).astype(np.float32)
    large = cv2.resize(values, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)
    noise: Float = 1.3 * large
    return noise


def _sample_tint(rng: np.random.Generator) -> Float:
    """Return a (3,) factor on the light below, from one distribution for all classes and debris."""
    strength = rng.uniform(0.10, 0.24) * (1 if rng.random() < 0.3 else -1)
    tint: Float = (1 + strength + rng.uniform(-0.07, 0.07, 3)).astype(np.float32)
    return tint


def _sample_centers(rng: np.random.Generator, size: tuple[int, int]) -> list[tuple[float, float]]:
    """Return (x, y) of cells in clumps: near enough to touch, too far apart to hide each other.

    A scene of 192 x 256 pixels has 6 to 11 cells; other sizes have the same density.
    """
    height, width = size
    num_cells = round(int(rng.integers(6, 12)) * height * width / (192 * 256))
    centers: list[tuple[float, float]] = []
    for _ in range(40 * num_cells):
        if len(centers) == num_cells:
            break
        if centers and rng.random() < 0.7:
            x0, y0 = centers[int(rng.integers(len(centers)))]
            angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(28, 38)
            x, y = x0 + reach * np.cos(angle), y0 + reach * np.sin(angle)
        else:
            x, y = rng.uniform(0, width), rng.uniform(0, height)
        is_inside = 0 <= x < width and 0 <= y < height
        if is_inside and all((x - a) ** 2 + (y - b) ** 2 >= 28**2 for a, b in centers):
            centers.append((float(x), float(y)))
    return centers


def _make_grid(half: int) -> tuple[Float, Float]:
    """Return (x, y) offsets from the center of a square patch, each (h, w)."""
    line = np.arange(-half, half + 1, dtype=np.float32)
    x, y = np.meshgrid(line, line)
    return x, y


def _compute_coverage(distance: Float, softness: float = 1.0) -> Float:
    """Return coverage 0..1 from the signed distance to an outline (negative inside), in pixels."""
    coverage: Float = np.clip(0.5 - distance / (2 * softness), 0, 1)
    return coverage


def _render_granular(rng: np.random.Generator) -> tuple[Float, Float]:
    radius = rng.uniform(15, 22)
    x, y = _make_grid(int(radius * 1.3) + 3)
    squeeze, turn = rng.uniform(0.85, 1.0), rng.uniform(0, np.pi)
    u = np.cos(turn) * x + np.sin(turn) * y
    v = (np.cos(turn) * y - np.sin(turn) * x) / squeeze
    distance = np.hypot(u, v) - radius + 0.6 * _sample_noise(rng, x.shape, 7)
    shift = rng.uniform(0.1, 0.3) * radius
    angle = rng.uniform(0, 2 * np.pi)
    nucleus = np.hypot(x - shift * np.cos(angle), y - shift * np.sin(angle)) - 0.5 * radius
    light = 1 - 0.30 * _compute_coverage(nucleus + 0.8 * _sample_noise(rng, x.shape, 5), 1.2)
    light *= 1 + 0.09 * _sample_noise(rng, x.shape, 2.5)
    return _compute_coverage(distance), light * (1 - 0.14 * _compute_rim(distance))


def _render_striated(rng: np.random.Generator) -> tuple[Float, Float]:
    length, half_width = rng.uniform(17, 27), rng.uniform(7.5, 11)
    x, y = _make_grid(int(length + half_width) + 6)
    turn, bend = rng.uniform(0, np.pi), rng.uniform(-0.013, 0.013)
    along = np.cos(turn) * x + np.sin(turn) * y
    across = np.cos(turn) * y - np.sin(turn) * x - bend * (along**2 - length**2 / 2)
    beyond = np.maximum(np.abs(along) - length, 0)
    distance = np.hypot(beyond, across) - half_width + 0.4 * _sample_noise(rng, x.shape, 9)
    period, phase = rng.uniform(6.5, 9), rng.uniform(0, 2 * np.pi)
    bands = np.sin(2 * np.pi * along / period + phase)
    light = 0.94 + 0.15 * bands + 0.03 * _sample_noise(rng, x.shape, 3)
    return _compute_coverage(distance), light * (1 - 0.14 * _compute_rim(distance))


def _render_lobed(rng: np.random.Generator) -> tuple[Float, Float]:
    radius, lobes = rng.uniform(16, 23), int(rng.integers(4, 7))
    x, y = _make_grid(int(radius * 1.5) + 3)
    angle = np.arctan2(y, x)
    waves = rng.uniform(0.18, 0.27) * np.cos(lobes * angle + rng.uniform(0, 2 * np.pi))
    waves += 0.06 * np.cos(2 * angle + rng.uniform(0, 2 * np.pi))
    distance = (np.hypot(x, y) - radius * (1 + waves)) * 0.85
    light = 0.95 + 0.04 * _sample_noise(rng, x.shape, 3)
    for _ in range(int(rng.integers(2, 4))):
        turn, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.5) * radius
        hole = np.hypot(x - reach * np.cos(turn), y - reach * np.sin(turn)) - rng.uniform(3, 5)
        light += 0.30 * _compute_coverage(hole, 1.2) - 0.16 * np.exp(-((hole - 1.5) ** 2) / 2)
    return _compute_coverage(distance), light * (1 - 0.14 * _compute_rim(distance))


def _compute_rim(distance: Float) -> Float:
    """Return a thin line just inside an outline, 0..1."""
    rim: Float = np.exp(-((distance + 1.5) ** 2) / 3)
    return rim


_PAINTERS: dict[str, Callable[[np.random.Generator], tuple[Float, Float]]] = {
    "granular": _render_granular,
    "striated": _render_striated,
    "lobed": _render_lobed,
}


def _blend_patch(
    image: Float, coverage: Float, light: Float, tint: Float, center: tuple[float, float]
) -> NDArray[np.bool_]:
    """Blend a patch into `image` in place and return its (H, W) mask inside the frame."""
    height, width = image.shape[:2]
    half = coverage.shape[0] // 2
    left, top = round(center[0]) - half, round(center[1]) - half
    rows = slice(max(top, 0), min(top + coverage.shape[0], height))
    columns = slice(max(left, 0), min(left + coverage.shape[1], width))
    patch_region = (
        slice(rows.start - top, rows.stop - top),
        slice(columns.start - left, columns.stop - left),
    )
    alpha = coverage[patch_region][..., None]
    below = image[rows, columns]
    # The light below is averaged, so that a cell does not show the texture that it covers.
    local = below.mean(axis=(0, 1), keepdims=True)
    image[rows, columns] = (1 - alpha) * below + alpha * local * tint * light[patch_region][
        ..., None
    ]
    mask = np.zeros((height, width), dtype=np.bool_)
    mask[rows, columns] = coverage[patch_region] > 0.5
    return mask


def _add_debris(rng: np.random.Generator, image: Float) -> None:
    """Draw one object that is not a cell: a speck, a fiber, or a blob out of focus."""
    height, width = image.shape[:2]
    center = (float(rng.uniform(0, width)), float(rng.uniform(0, height)))
    kind = rng.random()
    if kind < 0.45:
        radius = rng.uniform(1.5, 5)
        x, y = _make_grid(10)
        coverage = _compute_coverage(np.hypot(x, y) - radius + 0.8 * _sample_noise(rng, x.shape, 4))
    elif kind < 0.75:
        length, bend, turn = rng.uniform(15, 45), rng.uniform(-0.02, 0.02), rng.uniform(0, np.pi)
        x, y = _make_grid(60)
        along = np.cos(turn) * x + np.sin(turn) * y
        across = np.cos(turn) * y - np.sin(turn) * x - bend * along**2
        distance = np.hypot(np.maximum(np.abs(along) - length, 0), across)
        coverage = _compute_coverage(distance - rng.uniform(0.8, 2.2))
    else:
        radius = rng.uniform(12, 22)
        x, y = _make_grid(40)
        coverage = 0.8 * _compute_coverage(np.hypot(x, y) - radius, softness=rng.uniform(5, 9))
    _blend_patch(image, coverage, np.ones_like(coverage), _sample_tint(rng), center)


def _simulate_camera(rng: np.random.Generator, image: Float) -> NDArray[np.uint8]:
    """Apply lens blur and sensor noise, and convert to 8 bit."""
    blurred = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.5, 0.9)))
    noisy = blurred + rng.normal(0, rng.uniform(0.012, 0.024), image.shape)
    pixels: NDArray[np.uint8] = np.clip(255 * noisy + 0.5, 0, 255).astype(np.uint8)
    return pixels
