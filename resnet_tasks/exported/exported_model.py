"""Exported model: images in, predictions out, without torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.images.preprocessing import Preparation
from resnet_tasks.data.images.windows import WindowGrid
from resnet_tasks.errors import RunError
from resnet_tasks.exported.engines import Engine, open_engine, select_head_outputs
from resnet_tasks.exported.manifest import FILE, Manifest
from resnet_tasks.exported.plugins import load_plugins
from resnet_tasks.inference.combiners import COMBINERS, CombinedHead, add_combiners
from resnet_tasks.inference.image_inputs import ImageInput, ImageInputs, predict_inputs
from resnet_tasks.inference.predictor import Predictor, WholeImagePredictor
from resnet_tasks.inference.sliding_window import SlidingWindowPredictor
from resnet_tasks.inference.streaming.stream import PredictionRequest, StreamOptions, predict_all
from resnet_tasks.inference.streaming.stream_predictor import PredictorStream
from resnet_tasks.runtime.console import Console
from resnet_tasks.structures.image_result import ImageResult
from resnet_tasks.structures.input_images import HeadInfo, InputImage
from resnet_tasks.structures.tasks import TASKS, Outputs
from resnet_tasks.tasks.built_in import BUILT_IN_TASKS

assert BUILT_IN_TASKS, "the import registers the tasks of exported heads"


def is_exported(folder: Path) -> bool:
    """Return whether a folder holds an exported model."""
    return (folder / FILE).exists()


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
        cls,
        folder: Path | str,
        *,
        precision: str | None = None,
        threads: int = 0,
        trust_plugins: bool = False,
    ) -> ExportedModel:
        """Open an exported folder.

        Args:
            folder: Path of a folder that `resnet-tasks export` created.
            precision: `auto` or `fp32`; None: the precision that the export found accurate enough.
            threads: Maximum number of threads; 0: `OMP_NUM_THREADS`, else one per core.
            trust_plugins: Whether to run the plugins of the export if a task or combiner is not
                registered.

        Raises:
            DataError: If the precision is unknown.
            RecipeError: If a plugin fails.
            RunError: If the folder holds no export or a damaged one, its engine is not installed,
                or a task or combiner is not registered.
        """
        manifest = Manifest.read(Path(folder))
        load_plugins(manifest, Path(folder), trust=trust_plugins)
        resolved_precision = manifest.precision if precision is None else precision
        graph = Path(folder) / manifest.graph
        engine = open_engine(graph, precision=resolved_precision, threads=threads)
        _require_outputs(engine, manifest, graph)
        return cls(manifest, engine)

    @property
    def heads(self) -> dict[str, HeadInfo]:
        """Head name -> task, class names and category ids."""
        return {
            name: HeadInfo(head.task, head.classes, head.category_ids)
            for name, head in self.manifest.heads.items()
        }

    def outputs(self, images: Sequence[InputImage]) -> dict[str, Outputs]:
        """Compute the declared outputs of every head for a batch of images."""
        pixels = [self.manifest.pixels.convert(image.pixels) for image in images]
        batch_outputs = self.engine.run(*collate_images(pixels, self.manifest.multiple))
        return {name: select_head_outputs(batch_outputs, name) for name in self.manifest.heads}

    def build_predictor(self) -> Predictor:
        """Return the predictor of this model, with the windows and combiners of its recipe."""
        windows = self.manifest.windows
        predictor: Predictor = WholeImagePredictor(self)
        if windows is not None:
            grid = WindowGrid(windows["height"], windows["width"], windows["overlap"])
            predictor = SlidingWindowPredictor(self, grid, iou=windows["nms_iou"])
        return add_combiners(predictor, self._build_combiners())

    def _build_combiners(self) -> dict[str, CombinedHead]:
        combined = {}
        for name, exported in self.manifest.combine.items():
            combiner_class = COMBINERS.get(exported.type)
            heads = {role: self.heads[head] for role, head in exported.roles.items()}
            combiner = combiner_class(heads, exported.options)
            info = HeadInfo(combiner_class.task, exported.classes, exported.category_ids)
            combined[name] = CombinedHead(combiner, exported.roles, info)
        return combined

    @overload
    def predict(self, images: ImageInput, names: Sequence[str] = ...) -> ImageResult: ...

    @overload
    def predict(self, images: ImageInputs, names: Sequence[str] = ...) -> list[ImageResult]: ...

    def predict(
        self, images: ImageInput | ImageInputs, names: Sequence[str] = ()
    ) -> ImageResult | list[ImageResult]:
        """Return the predictions for a list of images, which are processed as one batch.

        Args:
            images: List of images, each in a form that `Run.predict` takes; or one such image.
            names: Names of the images in error messages; default: their paths or positions.

        Returns:
            Predictions of every head for each image, in original pixels, with numpy arrays; a list
            of them for a list of images.

        Raises:
            DataError: If an image cannot be read, does not fit the model, or is ambiguous.
        """
        return predict_inputs(
            self.build_predictor(), images, self.manifest.preparation, names=names
        )

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
            RunError: If the folder cannot be written to.
        """
        predict_all(
            self.to_stream_predictor(max_pixels),
            PredictionRequest(tuple(paths)),
            out,
            settings=self.get_stream_settings(max_pixels),
            options=StreamOptions(score),
            console=console,
        )
        return out

    def to_stream_predictor(self, max_pixels: int | None = None) -> PredictorStream:
        """Return this model as a predictor for streams of images.

        Args:
            max_pixels: Maximum number of pixels per image; larger images are refused; None: the
                limit of the recipe.
        """
        manifest = self.manifest
        limit = max_pixels or manifest.preparation.max_pixels
        return PredictorStream(
            self.build_predictor(),
            replace(manifest.preparation, max_pixels=limit),
            manifest.categories,
            batch_size=1,
        )

    def get_stream_settings(self, max_pixels: int | None = None) -> dict[str, Any]:
        """Return the settings that affect a stream's results; see `Run.get_stream_settings`."""
        manifest = repr(replace(self.manifest, preparation=Preparation())).encode()
        return {
            "export": hashlib.sha256(manifest).hexdigest(),
            "max_pixels": max_pixels or self.manifest.preparation.max_pixels,
        }


def _require_outputs(engine: Engine, manifest: Manifest, graph: Path) -> None:
    """Require that a graph has the outputs that the tasks of the export declare."""
    for name, head in manifest.heads.items():
        missing = [
            output
            for output in TASKS.get(head.task).outputs
            if f"{name}.{output}" not in engine.outputs
        ]
        if missing:
            raise RunError(
                f"{graph} is not the graph of this {FILE}: the head {name} lacks the outputs "
                f"{', '.join(missing)}; export the run again"
            )


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
