"""The evaluation after an epoch: what is measured, and whether it is the best so far."""

from __future__ import annotations

from collections.abc import Mapping

from torch.utils.data import Dataset

from resnet_tasks.evaluation.evaluate import evaluate
from resnet_tasks.evaluation.evaluators import (
    MAIN_METRIC,
    build_evaluators,
    choose_best_metric,
    select_extra,
)
from resnet_tasks.recipe.schema.evaluation import EvaluationRecipe
from resnet_tasks.runs.inference_options import add_sliding_windows
from resnet_tasks.structures.evaluation import Metric
from resnet_tasks.structures.samples import Sample
from resnet_tasks.training.state.train_state import TrainState


class Validation:
    """Judges a model in training on what it does not learn from.

    Args:
        data: What it is judged on, without augmentation; None: nothing is.
        train_state: Whose weights are judged: the averaged ones where there are any.
        recipe: How, and which metric chooses the best checkpoint.
        batch_size: Images per forward, where `recipe` does not say.

    Attributes:
        best_metric: `head/metric` that chooses the best checkpoint; empty: the first of
            `select_headline_metrics`.
        batch_size: Images per forward.

    Raises:
        RecipeError: If `recipe.best` is no metric of any head.
    """

    def __init__(
        self,
        data: Dataset[Sample] | None,
        train_state: TrainState,
        recipe: EvaluationRecipe,
        *,
        batch_size: int,
    ) -> None:
        self._data = data
        self._train_state = train_state
        self._recipe = recipe
        self.batch_size = recipe.batch_size or batch_size
        heads = train_state.plain_model.named_heads
        self.best_metric = choose_best_metric(heads, recipe.best, recipe.extra)

    @property
    def has_data(self) -> bool:
        """Whether there is anything to judge on."""
        return self._data is not None

    def measure(self) -> dict[str, Metric]:
        """`{"head/metric": Metric}`, the same in all processes."""
        assert self._data is not None
        train_state, recipe = self._train_state, self._recipe
        model = train_state.evaluation_model
        # Statistics of norms are each process's own; the main one's are kept, and judged.
        train_state.processes.broadcast_buffers(model)
        extra = select_extra(model.named_heads, self.best_metric, recipe.extra)
        evaluation = evaluate(
            add_sliding_windows(model, recipe.sliding, batch_size=self.batch_size),
            self._data,
            batch_size=self.batch_size,
            precision=train_state.precision,
            evaluators=build_evaluators(model.named_heads, backend=recipe.backend, extra=extra),
            bootstrap=None,  # the loop needs values only
            process_group=train_state.processes,
        )
        return train_state.processes.run_on_main(lambda: evaluation.metrics)

    def select_headline_metrics(self, metrics: Mapping[str, Metric]) -> list[str]:
        """The main metric of every head; where no head has one, the first metric of all."""
        heads = self._train_state.plain_model.named_heads.items()
        names = [f"{name}/{MAIN_METRIC.get(head.evaluator_name, '')}" for name, head in heads]
        available = [name for name in names if name in metrics]
        return available or list(metrics)[:1]

    def find_improvement(self, metrics: Mapping[str, Metric], best: float | None) -> float | None:
        """The value that chooses the best checkpoint, where it is better than `best`.

        Args:
            metrics: Of the last evaluation.
            best: The value to beat; None: any is better.
        """
        name = self.best_metric or self.select_headline_metrics(metrics)[0]
        metric = metrics.get(name)
        if metric is None or metric.value is None:
            return None
        if best is None:
            return metric.value
        is_better = metric.value != best and (metric.value < best) == metric.lower_is_better
        return metric.value if is_better else None
