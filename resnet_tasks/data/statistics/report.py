"""Reports of dataset statistics: tables on the console and a figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray
from rich.table import Table

from resnet_tasks.data.images.bit_depths import REMEDY
from resnet_tasks.data.images.intensity import Intensity
from resnet_tasks.data.statistics.class_counts import (
    format_counts,
    has_many_classes,
)
from resnet_tasks.data.statistics.measure import AREA_LIMITS, BINS, DatasetStatistics
from resnet_tasks.errors import DataError, shorten_name
from resnet_tasks.files.atomic import write_json
from resnet_tasks.number_formats import Count
from resnet_tasks.runtime.console import Console, Text

SHOWN_SIZES = 5
"""Number of image sizes that are listed. Further sizes are only counted."""
SHOWN_CLASSES = 20
"""Number of classes in the figure, and maximum number of rows of the table of pixels."""
SIZE_NAMES = ("small", "medium", "large")
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
RGB = ("tab:red", "tab:green", "tab:blue")


def print_statistics(
    statistics: DatasetStatistics,
    console: Console,
    *,
    title: str,
    channels: int,
    intensity: Intensity | None = None,
) -> None:
    """Print all statistics and the values for a recipe.

    Args:
        statistics: Statistics to print.
        console: Console to print to.
        title: File name for the headline.
        channels: Number of channels, as in a recipe's `data.channels`.
        intensity: Intensity step that was applied to the images.
    """
    groups = f" in {Count(statistics.groups):group}" if statistics.groups else ""
    console.print(
        f"{title}: {Count(statistics.images):image}{groups}", markup=False, soft_wrap=True
    )
    _print_sizes(statistics, console)
    for kind, value_range in sorted(statistics.value_ranges.items()):
        console.print(
            f"stored: {Count(value_range.images):image} of {kind}, values {value_range.low:g} to "
            f"{value_range.high:g}",
            soft_wrap=True,
        )
    if statistics.channels.pixels:
        console.print(_build_channel_table(statistics))
    _print_objects(statistics, console)
    if statistics.image_labels:
        console.print(
            f"image-level labels: {format_counts(statistics.image_labels)}",
            markup=False,
            soft_wrap=True,
        )
    if statistics.class_pixels is not None:
        console.print(_build_pixel_table(statistics))
    _print_recommendation(statistics, console, channels, intensity or Intensity())


def _print_sizes(statistics: DatasetStatistics, console: Console) -> None:
    frequent = statistics.sizes.most_common(SHOWN_SIZES)
    sizes_text = ", ".join(f"{width} x {height}: {count}" for (height, width), count in frequent)
    num_omitted = len(statistics.sizes) - len(frequent)
    more = f", and {Count(num_omitted):more size}" if num_omitted else ""
    console.print(f"sizes (width x height): {sizes_text}{more}", soft_wrap=True)


def _build_channel_table(statistics: DatasetStatistics) -> Table:
    table = Table(title="channels, 0..1 after the intensity step", title_justify="left")
    for name in ("channel", "mean", "std", "min", "max"):
        table.add_column(name, justify="right")
    measured = statistics.channels
    rows = zip(measured.mean, measured.std, measured.low, measured.high, strict=True)
    for number, row in enumerate(rows):
        table.add_row(str(number), *(f"{value:.4f}" for value in row))
    return table


def _print_objects(statistics: DatasetStatistics, console: Console) -> None:
    if not statistics.per_image or not (len(statistics.boxes) or statistics.crowds):
        return
    counts = np.asarray(statistics.per_image)
    # Classes that occur only in label maps are not listed with 0 objects.
    objects = {
        name: n for name, n in statistics.objects.items() if n or statistics.class_pixels is None
    }
    console.print(
        f"objects: {format_counts(objects)}; {Count(statistics.crowds):crowd region}; per "
        f"image {counts.min()} to {counts.max()}, mean {counts.mean():.2f}, "
        f"{Count((counts == 0).sum()):image} without",
        markup=False,
        soft_wrap=True,
    )
    if not len(statistics.boxes):
        return
    small, medium, large = statistics.by_size
    console.print(f"areas by COCO's limits: {small} small, {medium} medium, {large} large")
    table = Table(title="boxes, pixels of the stored images", title_justify="left")
    table.add_column("")
    for quantile in QUANTILES:
        table.add_column(f"{quantile:.0%}", justify="right")
    for name, values, digits in (
        ("width", statistics.boxes[:, 2], 1),
        ("height", statistics.boxes[:, 3], 1),
        ("square root of area", statistics.sides, 1),
        ("height / width", statistics.aspect_ratios, 2),
    ):
        row = np.quantile(values, QUANTILES)
        table.add_row(name, *(f"{value:.{digits}f}" for value in row))
    console.print(table)


def _build_pixel_table(statistics: DatasetStatistics) -> Table:
    assert statistics.class_pixels is not None
    table = Table(title="annotated pixels", title_justify="left")
    table.add_column("class")
    table.add_column("pixels", justify="right")
    table.add_column("share", justify="right")
    classes = statistics.class_pixels
    rows = list(classes.items())
    if len(rows) > SHOWN_CLASSES:
        rows = sorted(rows, key=lambda row: -row[1])[:SHOWN_CLASSES]
        rest = sum(classes.values()) - sum(count for _, count in rows)
        rows = [(shorten_name(name), count) for name, count in rows]
        rows.append((f"({len(classes) - SHOWN_CLASSES} rarer classes)", rest))
    rows.append(("(unlabeled or void)", statistics.void_pixels))
    total = max(1, sum(count for _, count in rows))
    for name, count in rows:
        # `Text`, because the name of a class may look like markup.
        table.add_row(Text(name), str(count), f"{count / total:.2%}")
    return table


def _print_recommendation(
    statistics: DatasetStatistics, console: Console, channels: int, intensity: Intensity
) -> None:
    """Print the lines for the `data:` section of a recipe."""
    if (mixture := statistics.depths.describe_mixture(intensity)) is not None:
        console.print(
            f"warning: the images have different bit depths ({mixture}), so that equal exposures "
            f"may reach the model with different values; {REMEDY}",
            soft_wrap=True,
        )
    if (warning := statistics.depths.describe_unused_bits(intensity)) is not None:
        console.print(f"warning: {warning}", soft_wrap=True)
    if statistics.unplaced:
        low = min(value_range.low for value_range in statistics.value_ranges.values())
        high = max(value_range.high for value_range in statistics.value_ranges.values())
        console.print(
            f"{Count(statistics.unplaced):image has} values whose range is unknown; measure again "
            f"with data.intensity.type=window data.intensity.level={(low + high) / 2:g} "
            f"data.intensity.width={high - low:g} (all values from {low:g} to {high:g}), or with "
            "data.intensity.type=percentile",
            soft_wrap=True,
        )
        return
    constant = [str(number) for number, std in enumerate(statistics.channels.std) if std == 0]
    if constant:
        console.print(
            f"channel {', '.join(constant)} is constant over all images, so this data gives no "
            "constants to normalize by; remove the channel from the images, or use the constants "
            "of the weights",
            soft_wrap=True,
        )
        return
    # Six significant digits instead of decimals, because a 16-bit sensor may use only a hundredth
    # of the range of its data type.
    mean, std = (
        ", ".join(f"{value:.6g}" for value in values)
        for values in (statistics.channels.mean, statistics.channels.std)
    )
    console.print(
        "to normalize by this data, write into the recipe's data section:\n"
        f"  channels: {channels}\n{_format_intensity(intensity)}"
        f"  normalize: {{mean: [{mean}], std: [{std}]}}",
        markup=False,
        soft_wrap=True,
    )


def _format_intensity(step: Intensity) -> str:
    """Format the intensity step on which the constants depend; empty for the default step."""
    if step.type == "auto":
        return ""
    if step.type == "window":
        values = f"level: {step.level:.10g}, width: {step.width:.10g}"
    else:
        values = f"low: {step.low:.10g}, high: {step.high:.10g}"
        values += ", per_channel: true" if step.per_channel else ""
    return f"  intensity: {{type: {step.type}, {values}}}\n"


def is_shortened(statistics: DatasetStatistics) -> bool:
    """Return whether `print_statistics` shows only some of the classes or image sizes."""
    counts = (statistics.objects, statistics.image_labels)
    return (
        any(map(has_many_classes, counts))
        or len(statistics.class_pixels or ()) > SHOWN_CLASSES
        or len(statistics.sizes) > SHOWN_SIZES
    )


def write_statistics(statistics: DatasetStatistics, path: Path) -> None:
    """Write the statistics as JSON, with the numbers of all classes and image sizes.

    Raises:
        RunError: If the file cannot be written.
    """
    write_json(path, _statistics_to_json(statistics))


def _statistics_to_json(statistics: DatasetStatistics) -> dict[str, Any]:
    channels = statistics.channels
    columns = (channels.mean, channels.std, channels.low, channels.high)
    names = ("mean", "std", "min", "max")
    return {
        "images": statistics.images,
        "groups": statistics.groups,
        "sizes": [
            {"height": height, "width": width, "images": count}
            for (height, width), count in statistics.sizes.most_common()
        ],
        "values": {kind: asdict(values) for kind, values in statistics.value_ranges.items()},
        "channels": [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)],
        "objects": statistics.objects,
        "crowds": statistics.crowds,
        "objects_by_size": dict(zip(SIZE_NAMES, statistics.by_size, strict=True)),
        "image_labels": statistics.image_labels,
        "class_pixels": statistics.class_pixels,
        "void_pixels": statistics.void_pixels,
        "subgroups": statistics.subgroups,
    }


def draw_statistics(
    statistics: DatasetStatistics, path: Path, colors: Mapping[str, tuple[int, int, int]]
) -> None:
    """Draw image sizes, classes, box centers, box sizes and shapes, and channels into one PNG.

    Args:
        statistics: Statistics to draw.
        path: Path of the PNG.
        colors: Class name -> RGB color of its bar, 0..255.

    Raises:
        DataError: If the file cannot be written.
    """
    figure = Figure(figsize=(14, 8), layout="constrained")
    sizes, classes, centers, sides, shapes, channels = figure.subplots(2, 3).ravel()
    _draw_sizes(statistics, sizes)
    _draw_classes(statistics, classes, colors)
    centers.set_title("centers of boxes, relative to the image")
    heat_map = centers.imshow(statistics.centers, extent=(0, 1, 1, 0), cmap="magma", aspect="auto")
    figure.colorbar(heat_map, ax=centers, label="boxes")
    sides.set(title="square root of box area", xlabel="pixels", ylabel="boxes")
    if len(statistics.boxes):
        sides.hist(statistics.sides, bins=_make_log_bins(statistics.sides), color="tab:blue")
        _set_log_axis(sides)
        for limit in AREA_LIMITS:
            sides.axvline(np.sqrt(limit), color="0.5", linestyle=":")
        small, medium, large = statistics.by_size
        sides.set_xlabel(f"pixels; by area {small} small, {medium} medium, {large} large")
    shapes.set(title="height / width of boxes", xlabel="ratio", ylabel="boxes")
    if len(statistics.boxes):
        shapes.hist(
            statistics.aspect_ratios,
            bins=_make_log_bins(statistics.aspect_ratios),
            color="tab:green",
        )
        _set_log_axis(shapes)
    _draw_channels(statistics, channels)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png", dpi=110)
    except OSError as error:
        raise DataError(
            f"{path} cannot be written ({error.strerror}); choose another --out"
        ) from None


def _draw_sizes(statistics: DatasetStatistics, axes: Axes) -> None:
    axes.set(title="images by size", xlabel="width, pixels", ylabel="height, pixels")
    heights, widths = np.asarray(list(statistics.sizes)).T
    counts = np.asarray(list(statistics.sizes.values()))
    axes.scatter(widths, heights, s=20 + 380 * counts / counts.max(), alpha=0.6)
    axes.set_xlim(0, widths.max() * 1.1)
    axes.set_ylim(0, heights.max() * 1.1)


def _draw_classes(
    statistics: DatasetStatistics, axes: Axes, colors: Mapping[str, tuple[int, int, int]]
) -> None:
    """Draw the objects of the most frequent classes, or pixels or images if there are none."""
    counts, unit = statistics.objects, "objects"
    if not any(counts.values()) and statistics.image_labels:
        counts, unit = statistics.image_labels, "images"
    elif not any(counts.values()) and statistics.class_pixels:
        counts, unit = statistics.class_pixels, "pixels"
    frequent = sorted(counts.items(), key=lambda class_count: -class_count[1])[:SHOWN_CLASSES]
    num_omitted = len(counts) - len(frequent)
    axes.set(
        title=f"{unit} by class" + (f" (and {num_omitted} rarer ones)" if num_omitted else ""),
        xlabel=unit,
    )
    # By position, because shortened names may be equal. A thin gray edge keeps bright colors
    # visible on white.
    axes.barh(
        range(len(frequent)),
        [count for _, count in frequent],
        color=[np.asarray(colors[name]) / 255 for name, _ in frequent],
        edgecolor="0.4",
        linewidth=0.6,
    )
    axes.set_yticks(range(len(frequent)), [shorten_name(name) for name, _ in frequent])
    axes.invert_yaxis()


def _set_log_axis(axes: Axes) -> None:
    """Set a logarithmic axis with plain numbers at 1, 2 and 5 of every decade."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _make_log_bins(values: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = float(values.min()), float(values.max())
    return np.geomspace(low * 0.99, high * 1.01, 41)


def _draw_channels(statistics: DatasetStatistics, axes: Axes) -> None:
    axes.set(title="channel values after the intensity step", xlabel="0..1", ylabel="share")
    histogram = statistics.channels.histogram
    places = (np.arange(BINS) + 0.5) / BINS
    for number, counts in enumerate(histogram):
        color = RGB[number] if len(histogram) == 3 else None
        axes.plot(places, counts / max(1, counts.sum()), label=f"{number}", color=color)
    if len(histogram):
        axes.set_yscale("log")
        axes.legend(title="channel")
