"""The evaluation after an epoch: what is measured, and whether it is the best so far."""

from __future__ import annotations

from collections.abc import Mapping

from torch.utils.data import Dataset

from resnet_tasks.evaluation.evaluate import evaluate
from resnet_tasks.evaluation.evaluators import MAIN_METRIC, best_metric, evaluators_of, extra_for
from resnet_tasks.recipe.schema import EvaluationRecipe
from resnet_tasks.structures import Metric, Sample
from resnet_tasks.training.inference import windowed
from resnet_tasks.training.trainee import Trainee


class Validation:
    """Judges a model in training on what it does not learn from.

    Args:
        data: What it is judged on, without augmentation; None: nothing is.
        trainee: Whose weights are judged: the averaged ones where there are any.
        recipe: How, and which metric chooses the best checkpoint.
        batch_size: Pictures per forward, where `recipe` does not say.

    Attributes:
        best_metric: `head/metric` that chooses the best checkpoint; empty: the first of `headline`.
        batch_size: Pictures per forward.

    Raises:
        RecipeError: If `recipe.best` is no metric of any head.
    """

    def __init__(
        self,
        data: Dataset[Sample] | None,
        trainee: Trainee,
        recipe: EvaluationRecipe,
        *,
        batch_size: int,
    ) -> None:
        self._data = data
        self._trainee = trainee
        self._recipe = recipe
        self.batch_size = recipe.batch_size or batch_size
        heads = trainee.plain_model.named_heads
        self.best_metric = best_metric(heads, recipe.best, recipe.extra)

    @property
    def has_data(self) -> bool:
        """Whether there is anything to judge on."""
        return self._data is not None

    def measure(self) -> dict[str, Metric]:
        """`{"head/metric": Metric}`, the same in all processes."""
        assert self._data is not None
        trainee, recipe = self._trainee, self._recipe
        model = trainee.judged_model
        # Statistics of norms are each process's own; the main one's are kept, and judged.
        trainee.processes.share_buffers(model)
        extra = extra_for(model.named_heads, self.best_metric, recipe.extra)
        evaluation = evaluate(
            windowed(model, recipe.sliding, batch_size=self.batch_size),
            self._data,
            batch_size=self.batch_size,
            precision=trainee.precision,
            evaluators=evaluators_of(model.named_heads, backend=recipe.backend, extra=extra),
            bootstrap=None,  # the loop needs values only
            team=trainee.processes,
        )
        return trainee.processes.decide(lambda: evaluation.metrics)

    def headline(self, metrics: Mapping[str, Metric]) -> list[str]:
        """The main metric of every head; where no head has one, the first metric of all."""
        heads = self._trainee.plain_model.named_heads.items()
        names = [f"{name}/{MAIN_METRIC.get(head.evaluator_name, '')}" for name, head in heads]
        known = [name for name in names if name in metrics]
        return known or list(metrics)[:1]

    def improved(self, metrics: Mapping[str, Metric], best: float | None) -> float | None:
        """The value that chooses the best checkpoint, where it is better than `best`.

        Args:
            metrics: Of the last evaluation.
            best: The value to beat; None: any is better.
        """
        name = self.best_metric or self.headline(metrics)[0]
        metric = metrics.get(name)
        if metric is None or metric.value is None:
            return None
        if best is None:
            return metric.value
        is_better = metric.value != best and (metric.value < best) == metric.lower_is_better
        return metric.value if is_better else None
