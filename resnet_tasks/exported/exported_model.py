"""Exported model: images in, predictions out, without torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from resnet_tasks.data.images.preprocessing import Preparation
from resnet_tasks.errors import RunError
from resnet_tasks.exported.decode_outputs import decode
from resnet_tasks.exported.engines import Engine, open_engine, select_head_outputs
from resnet_tasks.exported.manifest import FILE, Manifest
from resnet_tasks.inference.streaming.stream import PredictionRequest, StreamOptions, predict_all
from resnet_tasks.inference.streaming.stream_predictor import ReadyImage
from resnet_tasks.structures.geometry import Geometry


def is_exported(folder: Path) -> bool:
    """Return whether a folder holds an exported model."""
    return (folder / FILE).is_file()


@dataclass(frozen=True)
class ExportedModel:
    """An opened folder of `resnet-tasks export`.

    Attributes:
        manifest: Contents of `export.json`.
        engine: Engine that runs the graph.
    """

    manifest: Manifest
    engine: Engine

    @classmethod
    def open(
        cls, folder: Path | str, *, precision: str | None = None, threads: int = 0
    ) -> ExportedModel:
        """Open an exported folder.

        Args:
            folder: Path of a folder that `resnet-tasks export` created.
            precision: `auto` or `fp32`; None: the precision that the export found accurate enough.
            threads: Maximum number of threads; 0: `OMP_NUM_THREADS`, else one per core.

        Raises:
            DataError: If the precision is unknown.
            RunError: If the folder holds no export or a damaged one, or its engine is not
                installed.
        """
        manifest = Manifest.read(Path(folder))
        resolved_precision = manifest.precision if precision is None else precision
        graph = Path(folder) / manifest.graph
        return cls(manifest, open_engine(graph, precision=resolved_precision, threads=threads))

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """Head name -> class names, in label order."""
        return {name: head.classes for name, head in self.manifest.heads.items()}

    @property
    def category_ids(self) -> dict[str, tuple[int, ...]]:
        """Head name -> category id of every label."""
        return {name: head.category_ids for name, head in self.manifest.heads.items()}

    def predict(
        self, images: Sequence[NDArray[Any]], names: Sequence[str] = ()
    ) -> list[dict[str, Any]]:
        """Return the predictions for images in memory, which are processed as one batch.

        Args:
            images: `(h, w)` or `(h, w, C)` arrays in RGB order with the stored values.
            names: Names of the images in error messages; default: their positions.

        Returns:
            Per image: head name -> `Detections`, `SegmentationMap` (both in pixels of that image)
            or `Classification`, all with numpy arrays.

        Raises:
            DataError: If an image does not fit the model.
        """
        if not images:
            return []
        image_names = names or [f"image {i}" for i in range(len(images))]
        preparation, pixels = self.manifest.preparation, self.manifest.pixels
        prepared = [
            pixels.prepare(preparation, image, name)
            for image, name in zip(images, image_names, strict=True)
        ]
        geometries = [
            Geometry.from_resize(
                (image.shape[0], image.shape[1]), (values.shape[0], values.shape[1])
            )
            for image, values in zip(images, prepared, strict=True)
        ]
        batch, sizes = collate_images(prepared, self.manifest.multiple)
        return self.decode_outputs(self.engine.run(batch, sizes), geometries)

    def decode_outputs(
        self, outputs: dict[str, NDArray[Any]], geometries: Sequence[Geometry]
    ) -> list[dict[str, Any]]:
        """Decode the outputs of the graph into one dict of head name -> prediction per image."""
        predictions = {
            name: decode(head, select_head_outputs(outputs, name), geometries)
            for name, head in self.manifest.heads.items()
        }
        return [
            {name: head_predictions[i] for name, head_predictions in predictions.items()}
            for i in range(len(geometries))
        ]

    def predict_paths(
        self,
        paths: Sequence[Path],
        *,
        out: Path,
        score: float | None = None,
        max_pixels: int | None = None,
        console: Console | None = None,
    ) -> Path:
        """Predict files, folders and videos into `out`, like `Run.predict_paths`.

        Args:
            paths: Images, videos, or folders or patterns of them.
            out: Folder for the results.
            score: Minimum score of detections; None: all are written, and those with a score of at
                least 0.5 are drawn.
            max_pixels: Maximum number of pixels per image; larger images are refused; None: the
                limit of the recipe.
            console: Console for progress.

        Raises:
            DataError: If there is no image, or no image can be read.
            RunError: If the folder cannot be written to, or the run predicts in windows.
        """
        predictor = self.to_stream_predictor(max_pixels)
        predict_all(
            predictor,
            PredictionRequest(tuple(paths)),
            out,
            settings=predictor.settings,
            options=StreamOptions(score),
            console=console,
        )
        return out

    def to_stream_predictor(self, max_pixels: int | None = None) -> ExportStreamPredictor:
        """Return this model as a predictor for streams of images.

        Args:
            max_pixels: Maximum number of pixels per image; larger images are refused; None: the
                limit of the recipe.

        Raises:
            RunError: If the run predicts in windows.
        """
        if self.manifest.windows is not None:
            raise RunError(
                "this model was trained on windows of large images, which `predict` merges only "
                "with the run folder; use the run folder, or run the graph on your own windows"
            )
        if max_pixels is None:
            return ExportStreamPredictor(self)
        limited = replace(self.manifest.preparation, max_pixels=max_pixels)
        return ExportStreamPredictor(
            replace(self, manifest=replace(self.manifest, preparation=limited))
        )


@dataclass(frozen=True)
class ExportStreamPredictor:
    """Exported model as a `StreamPredictor`.

    Attributes:
        model: Exported model that predicts.
        batch_size: Number of images per batch.
    """

    model: ExportedModel
    batch_size: int = 1

    @property
    def preparation(self) -> Preparation:
        """Preparation that turns images into inputs of the model."""
        return self.model.manifest.preparation

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """Head name -> class names, in label order."""
        return self.model.classes

    @property
    def category_ids(self) -> dict[str, tuple[int, ...]]:
        """Head name -> category id of every label."""
        return self.model.category_ids

    @property
    def categories(self) -> Sequence[Mapping[str, Any]]:
        """Categories of the dataset in COCO format."""
        return self.model.manifest.categories

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that affect a stream's results; a restart with other settings is refused."""
        manifest = repr(replace(self.model.manifest, preparation=Preparation())).encode()
        return {
            "export": hashlib.sha256(manifest).hexdigest(),
            "max_pixels": self.preparation.max_pixels,
        }

    def read(self, source: Path | NDArray[Any], name: str) -> ReadyImage:
        """Read one image; see `StreamPredictor`."""
        image = self.preparation.read(source) if isinstance(source, Path) else source
        return ReadyImage(self.preparation.open_image(image, name), image)

    def predict(self, images: Sequence[ReadyImage]) -> list[dict[str, Any]]:
        """Return head name -> prediction per image; see `StreamPredictor`."""
        names = [ready_image.image.name for ready_image in images]
        return self.model.predict([ready_image.ready for ready_image in images], names)


def collate_images(
    images: Sequence[NDArray[np.float32]], multiple: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Collate prepared images into a batch, padded like `structures.samples.collate`.

    Args:
        images: `(h, w, C)` float32 arrays.
        multiple: Number that height and width of the batch are multiples of.

    Returns:
        `(B, C, H, W)` float32 batch, and `(B, 2)` int64 (height, width) of every image.
    """
    sizes = np.asarray([image.shape[:2] for image in images], dtype=np.int64)
    height, width = (-(-int(side) // multiple) * multiple for side in sizes.max(axis=0))
    batch = np.zeros((len(images), images[0].shape[2], height, width), np.float32)
    for row, (image, (h, w)) in zip(batch, zip(images, sizes, strict=True), strict=True):
        row[:, :h, :w] = image.transpose(2, 0, 1)
    return batch, sizes
