"""Writer of a converted dataset: the loop over splits that all converters share.

A converter is a function `convert_NAME(source, out, *, progress=None, **options)` that is
registered in `data_tools.formats`. It has two parts:

1. Find the samples before anything is written. A sample describes one image of the source: a path,
   a row of a table, a parsed file. The result is a mapping split -> samples, with the native splits
   under the names `train`, `val` and `test`, in this order.
2. Read one sample: a function `add_sample(writer, sample)` that passes the records of the sample to
   the `CocoWriter` of its split. It calls `add_image` once, `add_box`, `add_mask`, `add_polygons`,
   `add_label` or `add_semantic` for what the source annotates, and `skip` for every object that is
   not converted. It raises a `DataError` that names the file if the sample is invalid.

`DatasetWriter.write` does everything else and returns the summaries, which are the result of the
converter; `data_tools.catalog` writes the data card from them:

    dataset = DatasetWriter(
        out,
        [CategorySpec(name) for name in class_names],
        annotated=("boxes",),
        description="Converted from NAME, {split}",
        images_root=source,
        copy_images=copy_images,
        license_name=license_name,
    )
    return dataset.write(track_splits(splits, progress), _add_sample)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from data_tools.reading.class_names import describe_similar_names
from data_tools.writing.coco_writer import Annotated, CategorySpec, CocoWriter
from data_tools.writing.split_summary import SplitSummary
from resnet_tasks.data.coco.categories import require_category_count
from resnet_tasks.errors import DataError

Sample = TypeVar("Sample")


class SampleError(DataError):
    """Error in a sample of a source whose layout was recognized."""


@dataclass(frozen=True)
class DatasetWriter:
    """Writer of all splits of a converted dataset, which share their classes.

    Attributes:
        folder: Folder of the JSON files.
        categories: Classes in order; the first gets id 1.
        annotated: Kinds of annotation of the source; see `CocoWriter`.
        description: One-line description for `info`; `{split}` is replaced by the split.
        images_root: Folder that image names are relative to; None if the converter creates the
            images inside `folder`.
        copy_images: Whether to copy the images to `folder/images/SPLIT` instead of referring to
            them.
        license_name: License of the source data.
    """

    folder: Path
    categories: Sequence[CategorySpec]
    annotated: Sequence[Annotated]
    description: str
    images_root: Path | None = None
    copy_images: bool = False
    license_name: str = ""

    def write(
        self,
        splits: Mapping[str, Iterable[Sample]],
        add_sample: Callable[[CocoWriter, Sample], None],
        finish_split: Callable[[CocoWriter], None] | None = None,
    ) -> tuple[SplitSummary, ...]:
        """Write every split, one after the other, and return their summaries.

        Args:
            splits: Split -> samples in the order of the images. They are iterated once, so that
                they may be read lazily. `track_splits` counts them for the progress report.
            add_sample: Function that adds the records of one sample.
            finish_split: Function called after the last sample of a split, for skipped files, notes
                and kinds of annotation that are known only then.

        Raises:
            DataError: If there are too many categories.
            SampleError: If a sample is invalid or cannot be written.
        """
        require_category_count(len(self.categories))
        summaries: list[SplitSummary] = []
        for split, samples in splits.items():
            writer = CocoWriter(
                self.folder,
                split,
                self.categories,
                annotated=self.annotated,
                images_root=self.images_root,
                copy_images=self.copy_images,
                description=self.description.replace("{split}", split),
                license_name=self.license_name,
            )
            if not summaries:  # the splits share their classes
                writer.report.warn(*describe_similar_names(c.name for c in self.categories))
            for sample in samples:
                try:
                    add_sample(writer, sample)
                except DataError as error:
                    raise SampleError(str(error)) from error
            if finish_split is not None:
                finish_split(writer)
            summaries.append(writer.write())
        return tuple(summaries)
