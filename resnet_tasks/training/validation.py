"""Evaluation after an epoch, and its comparison with the best one so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch.utils.data import Dataset

from resnet_tasks.evaluation.evaluate import evaluate
from resnet_tasks.evaluation.evaluators import (
    build_evaluators,
    choose_best_metric,
    compute_best_metric,
    name_main_metric,
    select_extra,
)
from resnet_tasks.inference.combiners import CombinedHead, add_combiners
from resnet_tasks.inference.torch_outputs import TorchOutputs
from resnet_tasks.recipe.schema.evaluation import EvaluationRecipe, SlidingRecipe
from resnet_tasks.runs.inference_options import build_window_predictor
from resnet_tasks.structures.evaluation import Metric
from resnet_tasks.structures.samples import Sample
from resnet_tasks.structures.tasks import DescribedHead
from resnet_tasks.training.train_step import TrainStep


@dataclass(frozen=True)
class EvaluationPlan:
    """Options of the evaluation after an epoch, and the combiners that it includes.

    Attributes:
        recipe: Options of the evaluation, and the metric that selects the best checkpoint.
        combined: Name -> combiner, whose predictions are evaluated like those of heads.
        windows: Sliding windows that images are predicted in; None: those of `recipe`.
    """

    recipe: EvaluationRecipe
    combined: Mapping[str, CombinedHead] = field(default_factory=dict)
    windows: SlidingRecipe | None = None


class Validation:
    """Evaluation of a model in training on held-out samples.

    Args:
        data: Validation samples, without augmentation; None: no evaluation.
        train_step: Step whose model is evaluated: the averaged one if there is one.
        plan: Options of the evaluation, and the combiners.
        batch_size: Images per forward pass if the options do not set it.

    Attributes:
        best_metric: `head/metric` that selects the best checkpoint, or the mean of several.
        batch_size: Images per forward pass.

    Raises:
        RecipeError: If no head has the metric `recipe.best`.
    """

    def __init__(
        self,
        data: Dataset[Sample] | None,
        train_step: TrainStep,
        plan: EvaluationPlan,
        *,
        batch_size: int,
    ) -> None:
        self._data = data
        self._train_step = train_step
        self._recipe = recipe = plan.recipe
        self.batch_size = recipe.batch_size or batch_size
        self._combined = plan.combined
        self._windows = plan.windows or recipe.sliding
        self._heads: dict[str, DescribedHead] = {
            **train_step.model.named_heads,
            **{name: head.info for name, head in self._combined.items()},
        }
        self.best_metric = choose_best_metric(self._heads, recipe.best, recipe.extra)

    @property
    def has_data(self) -> bool:
        """True if there are validation samples."""
        return self._data is not None

    def measure(self) -> dict[str, Metric]:
        """Evaluate the model and return `{"head/metric": Metric}`, the same in all processes."""
        assert self._data is not None
        train_step, recipe = self._train_step, self._recipe
        model = train_step.evaluation_model
        # Every process has its own batch-norm statistics. Checkpoints have those of the main
        # process, so all processes must evaluate with them.
        train_step.processes.broadcast_buffers(model)
        extra = select_extra(self._heads, self.best_metric, recipe.extra)
        predictor = build_window_predictor(
            TorchOutputs(model, train_step.precision), self._windows, batch_size=self.batch_size
        )
        evaluation = evaluate(
            add_combiners(predictor, self._combined),
            self._data,
            batch_size=self.batch_size,
            evaluators=build_evaluators(self._heads, backend=recipe.backend, extra=extra),
            bootstrap=None,  # the loop needs values only
            process_group=train_step.processes,
        )
        return train_step.processes.run_on_main(lambda: evaluation.metrics)

    def select_headline_metrics(self, metrics: Mapping[str, Metric]) -> list[str]:
        """Return the name of the main metric of every head; without any, the first metric."""
        heads = self._heads.items()
        names = [name_main_metric(name, head) for name, head in heads]
        available = [name for name in names if name in metrics]
        return available or list(metrics)[:1]

    def select_console_values(self, metrics: Mapping[str, Metric]) -> dict[str, float | None]:
        """Return the values to print: the main metrics, and the one of the best checkpoint."""
        values = {name: metrics[name].value for name in self.select_headline_metrics(metrics)}
        return values | {self.best_metric: compute_best_metric(self.best_metric, metrics).value}

    def find_improvement(self, metrics: Mapping[str, Metric], best: float | None) -> float | None:
        """Return the value of the best-checkpoint metric if it is better than `best`, else None.

        Args:
            metrics: Metrics of the last evaluation.
            best: Best value so far; None: any value is better.
        """
        return _get_better_value(compute_best_metric(self.best_metric, metrics), best)

    def find_head_improvements(
        self, metrics: Mapping[str, Metric], best: Mapping[str, float]
    ) -> dict[str, float]:
        """Return the value of the main metric of each head for which it is better than before.

        Args:
            metrics: Metrics of the last evaluation.
            best: Head name -> best value so far. The result is empty unless the options ask for the
                best checkpoint of each head.
        """
        improvements: dict[str, float] = {}
        for name, head in self._heads.items() if self._recipe.best_per_head else ():
            metric = metrics.get(name_main_metric(name, head), Metric(None))
            value = _get_better_value(metric, best.get(name))
            if value is not None:
                improvements[name] = value
        return improvements


def _get_better_value(metric: Metric, best: float | None) -> float | None:
    """Return the value of a metric if it is better than `best`, else None."""
    if metric.value is None or best is None:
        return metric.value
    is_better = metric.value != best and (metric.value < best) == metric.lower_is_better
    return metric.value if is_better else None
