"""Picklable factory that builds a run's predictor in another process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from resnet_tasks.inference.streaming.stream_predictor import PredictorStream
from resnet_tasks.runs.inference_options import PLAIN_INFERENCE, InferenceOptions
from resnet_tasks.runs.run import Run


@dataclass(frozen=True)
class RunPredictorFactory:
    """Callable that opens a run and returns its predictor.

    Attributes:
        directory: Absolute path of the run folder, valid on every machine that calls the factory.
        checkpoint: `last` or `best`.
        inference: Calibration, test-time augmentation views and windows.
        max_pixels: Maximum number of pixels per image; larger images are rejected; None: the limit
            of the recipe.
        trust_plugins: Whether to execute the code in the recipe's `plugins:`.
    """

    directory: Path
    checkpoint: str = "last"
    inference: InferenceOptions = PLAIN_INFERENCE
    max_pixels: int | None = None
    trust_plugins: bool = False

    def __call__(self) -> PredictorStream:
        """Open the run and return its predictor.

        Raises:
            ResnetTasksError: If the run cannot be opened.
        """
        run = Run.open(self.directory, trust_plugins=self.trust_plugins)
        return run.build_stream_predictor(self.checkpoint, self.inference, self.max_pixels)
