"""An exported model: images in, predictions out, without torch."""

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
    """Whether a folder holds an exported model."""
    return (folder / FILE).is_file()


@dataclass(frozen=True)
class ExportedModel:
    """An opened folder of `resnet-tasks export`.

    Attributes:
        manifest: What it says of itself.
        engine: Runs its graph.
    """

    manifest: Manifest
    engine: Engine

    @classmethod
    def open(
        cls, folder: Path | str, *, precision: str | None = None, threads: int = 0
    ) -> ExportedModel:
        """Opens an exported folder.

        Args:
            folder: Made by `resnet-tasks export`.
            precision: `auto` or `fp32`; None: as the export found right.
            threads: Most threads; 0: as many as there are cores.

        Raises:
            DataError: If the precision is neither.
            RunError: If it holds no export, a damaged one, or its engine is not installed.
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
        """Predictions for images in memory, all in one batch.

        Args:
            images: `(h, w)` or `(h, w, C)` arrays as stored, RGB order.
            names: What messages call them; default: their positions.

        Returns:
            Per image: head name -> `Detections`, `SegmentationMap` (in pixels of that image) or
            `Classification`; of numpy arrays.

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
        """Per image: head name -> prediction, from the outputs of the graph."""
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
        """Predicts files, folders and videos into `out`, as `Run.predict_paths` does.

        Args:
            paths: Images, videos, or folders or patterns of them.
            out: Folder for results.
            score: Detections below are left out; None keeps all and draws those from 0.5.
            max_pixels: Larger images are refused; None: as the recipe said.
            console: For progress.

        Raises:
            DataError: If there is no image, or none can be read.
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
        """This model as a stream of images uses it.

        Args:
            max_pixels: Larger images are refused; None: as the recipe said.

        Raises:
            RunError: If the run predicts in windows.
        """
        if self.manifest.windows is not None:
            raise RunError(
                "this model was trained on windows of big images, which `predict` puts together "
                "with the run folder only; name that, or run the graph on windows of your own"
            )
        if max_pixels is None:
            return ExportStreamPredictor(self)
        limited = replace(self.manifest.preparation, max_pixels=max_pixels)
        return ExportStreamPredictor(
            replace(self, manifest=replace(self.manifest, preparation=limited))
        )


@dataclass(frozen=True)
class ExportStreamPredictor:
    """An exported model as a `StreamPredictor`.

    Attributes:
        model: Predicts.
        batch_size: Images that go through the graph together.
    """

    model: ExportedModel
    batch_size: int = 1

    @property
    def preparation(self) -> Preparation:
        """How images are made ready."""
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
        """Of the data set, as in a COCO file."""
        return self.model.manifest.categories

    @property
    def settings(self) -> dict[str, Any]:
        """What decides a stream's results: a restart with other settings is refused."""
        manifest = repr(replace(self.model.manifest, preparation=Preparation())).encode()
        return {
            "export": hashlib.sha256(manifest).hexdigest(),
            "max_pixels": self.preparation.max_pixels,
        }

    def read(self, source: Path | NDArray[Any], name: str) -> ReadyImage:
        """See `StreamPredictor`."""
        image = self.preparation.read(source) if isinstance(source, Path) else source
        return ReadyImage(self.preparation.open_image(image, name), image)

    def predict(self, images: Sequence[ReadyImage]) -> list[dict[str, Any]]:
        """See `StreamPredictor`."""
        names = [ready_image.image.name for ready_image in images]
        return self.model.predict([ready_image.ready for ready_image in images], names)


def collate_images(
    images: Sequence[NDArray[np.float32]], multiple: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """A batch of prepared images, padded as `structures.collate` pads.

    Args:
        images: `(h, w, C)` each.
        multiple: The batch's sides are multiples of it.

    Returns:
        `(B, C, H, W)`, and `(B, 2)` (height, width) of every image.
    """
    sizes = np.asarray([image.shape[:2] for image in images], dtype=np.int64)
    height, width = (-(-int(side) // multiple) * multiple for side in sizes.max(axis=0))
    batch = np.zeros((len(images), images[0].shape[2], height, width), np.float32)
    for row, (image, (h, w)) in zip(batch, zip(images, sizes, strict=True), strict=True):
        row[:, :h, :w] = image.transpose(2, 0, 1)
    return batch, sizes
