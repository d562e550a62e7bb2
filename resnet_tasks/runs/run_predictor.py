"""A run's predictor, described so that another process can make it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from resnet_tasks.inference.streaming.model_predictor import ModelPredictor
from resnet_tasks.runs.inference_options import PLAIN_INFERENCE, InferenceOptions
from resnet_tasks.runs.run import Run


@dataclass(frozen=True)
class RunPredictorFactory:
    """Called, it opens the run and gives its predictor.

    Attributes:
        directory: The run folder, absolute; every machine must find it there.
        checkpoint: `last` or `best`.
        inference: Calibration, views and windows.
        max_pixels: Larger images are refused; None: as the recipe says.
        trust_plugins: Execute the recipe's `plugins:`.
    """

    directory: Path
    checkpoint: str = "last"
    inference: InferenceOptions = PLAIN_INFERENCE
    max_pixels: int | None = None
    trust_plugins: bool = False

    def __call__(self) -> ModelPredictor:
        """The predictor.

        Raises:
            ResnetTasksError: If the run cannot be opened.
        """
        run = Run.open(self.directory, trust_plugins=self.trust_plugins)
        return run.build_stream_predictor(self.checkpoint, self.inference, self.max_pixels)
