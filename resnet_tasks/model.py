"""One backbone, many heads: normalize -> backbone (-> shared pyramid) -> heads.

Shape glossary: `B` batch, `C` channels, `H, W` the padded batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, overload

import torch
from torch import Tensor, nn

from resnet_tasks.errors import RecipeError
from resnet_tasks.heads.base import Head
from resnet_tasks.layers.feature_pyramid import FeaturePyramid
from resnet_tasks.layers.folded_norms import fold_permanently
from resnet_tasks.runtime.devices import autocast
from resnet_tasks.structures.feature_spec import FeatureSpec
from resnet_tasks.structures.label_table import LabelTable
from resnet_tasks.structures.loss_term import LossTerm
from resnet_tasks.structures.samples import Batch

Losses = dict[str, LossTerm]
Raw = dict[str, dict[str, Tensor]]
Adjustment = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


class Backbone(Protocol):
    """What the model needs of a backbone: `backbone.ResNet`, or a module of the user's own."""

    specs: dict[str, FeatureSpec]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """`(B, C, H, W)` normalized -> level -> `(B, channels, H/stride, W/stride)`."""
        ...


class TaskModel(nn.Module):
    """A shared backbone and named heads; the backbone runs once for all of them.

    Args:
        backbone: Gives `specs`, `mean` and `std` besides its features.
        heads: Name -> head, built on the backbone's specs.
        label_tables: Head name -> translation of the data set's categories; default: the head's
            classes are the data set's categories, in order.
        loss_weights: Head name -> weight of its terms in the total; default 1.
        lr_scales: Head name -> its learning rate relative to that of the run; default 1.
        pyramid: Adds its levels to those of the backbone, once for all heads that read them.

    Raises:
        RecipeError: If there is no head, or one has a name that torch gives to no module.

    Attributes:
        adjustments: Head name -> what `predict` makes of its raw output before it is decoded, as a
            calibration does; none unless set.
        frozen: Parts that are kept as they are: `backbone`, `pyramid`, names of heads; see
            `freeze`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        heads: Mapping[str, Head],
        *,
        label_tables: Mapping[str, LabelTable] | None = None,
        loss_weights: Mapping[str, float] | None = None,
        lr_scales: Mapping[str, float] | None = None,
        pyramid: FeaturePyramid | None = None,
    ) -> None:
        super().__init__()
        if not heads:
            raise RecipeError("a model needs at least one head")
        empty = nn.ModuleDict()
        for name in heads:
            if not name or "." in name or hasattr(empty, name):
                raise RecipeError(
                    f"the head name {name!r} cannot be used, for torch gives modules no names that "
                    "are empty, hold a dot or are those of its own methods; rename the head"
                )
        assert isinstance(backbone, nn.Module)
        self.backbone = backbone
        self.pyramid = pyramid
        self.heads = nn.ModuleDict(dict(heads))
        tables = dict(label_tables or {})
        self.label_tables = {
            name: tables.get(name) or LabelTable.identity(head.classes)
            for name, head in heads.items()
        }
        self.loss_weights = {name: (loss_weights or {}).get(name, 1.0) for name in heads}
        self.lr_scales = {name: (lr_scales or {}).get(name, 1.0) for name in heads}
        self.adjustments: dict[str, Adjustment] = {}
        self.frozen: tuple[str, ...] = ()
        self.register_buffer("mean", torch.tensor(backbone.mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(backbone.std, dtype=torch.float32))

    def set_normalization(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Puts other constants, such as those of the data, in the place of the weights' own.

        They are saved and loaded with the model.

        Args:
            mean: Per channel, on the 0..1 scale.
            std: Per channel, on the 0..1 scale.

        Raises:
            RecipeError: If their number is not that of the channels, or a `std` is not above 0.
        """
        for name, values in (("mean", mean), ("std", std)):
            if len(values) != len(self.mean):
                raise RecipeError(
                    f"data.normalize: {name} has {len(values)} values, but the model takes "
                    f"{len(self.mean)} channel(s); give one value per channel"
                )
        if not all(value > 0 for value in std):
            raise RecipeError(f"data.normalize: std is {list(std)}; every value must be above 0")
        with torch.no_grad():
            self.mean.copy_(torch.tensor(list(mean), dtype=torch.float32))
            self.std.copy_(torch.tensor(list(std), dtype=torch.float32))

    @property
    def named_heads(self) -> dict[str, Head]:
        """Head name -> head."""
        return {name: head for name, head in self.heads.items() if isinstance(head, Head)}

    @property
    def trained_heads(self) -> tuple[str, ...]:
        """Names of the heads that are not frozen."""
        return tuple(name for name in self.named_heads if name not in self.frozen)

    def freeze(self, parts: Sequence[str]) -> None:
        """Keeps parts as they are: their parameters, and the statistics of their norms.

        Frozen heads have no losses and need no labels; they predict as ever.

        Args:
            parts: `backbone`, `pyramid`, names of heads.

        Raises:
            RecipeError: If there is no such part.
        """
        part_names = ["backbone", *(["pyramid"] if self.pyramid is not None else []), *self.heads]
        for part in parts:
            if part not in part_names:
                raise RecipeError(
                    f"{part!r} cannot be frozen, for the model has no such part; it has "
                    f"{', '.join(part_names)}"
                )
        self.frozen = tuple(parts)
        for part in parts:
            self._get_part(part).requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> TaskModel:
        """Training mode, in which frozen parts stay in evaluation mode."""
        super().train(mode)
        for part in self.frozen:
            self._get_part(part).eval()
        return self

    def _get_part(self, name: str) -> nn.Module:
        return self.get_submodule(name if name in ("backbone", "pyramid") else f"heads.{name}")

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return self.mean.device

    @overload
    def forward(self, batch: Batch, *, mode: Literal["loss"]) -> Losses: ...
    @overload
    def forward(self, batch: Batch, *, mode: Literal["raw"]) -> Raw: ...
    def forward(self, batch: Batch, *, mode: Literal["loss", "raw"]) -> Losses | Raw:
        """Losses or raw outputs of all heads; the only entry for both.

        Args:
            batch: On the model's device.
            mode: `loss` -> `{"head/term": LossTerm}`, frozen heads and heads without an annotated
                image in the batch left out; `raw` -> `{head: {name: tensor}}`.
        """
        sizes = [geometry.input_size for geometry in batch.geometries]
        features = self._select_levels(self.compute_features(self.normalize(batch.images, sizes)))
        if mode == "raw":
            return {name: head(features) for name, head in self.named_heads.items()}
        losses: Losses = {}
        for name in self.trained_heads:
            head = self.named_heads[name]
            positions = batch.find_annotated(head.task, self.label_tables[name])
            if not positions:
                continue
            view = batch.make_view(self.label_tables[name], positions)
            for term, value in head.loss(_select_rows(features, positions), view).items():
                losses[f"{name}/{term}"] = value
        return losses

    @property
    def specs(self) -> dict[str, FeatureSpec]:
        """All levels that heads can read: those of the backbone, and of the shared pyramid."""
        return {**self.backbone.specs, **({} if self.pyramid is None else self.pyramid.specs)}

    def compute_features(self, images: Tensor) -> dict[str, Tensor]:
        """Normalized images -> level -> `(B, channels, H/stride, W/stride)`, for all heads."""
        features: dict[str, Tensor] = self.backbone(images)
        return features if self.pyramid is None else {**features, **self.pyramid(features)}

    def _select_levels(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The levels that a head reads: the others are let go of, large as they are."""
        read = {level for head in self.named_heads.values() for level in head.in_levels}
        return {level: feature for level, feature in features.items() if level in read}

    def normalize(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """Plain pixels -> what the backbone's weights were trained on; padding becomes 0.

        Args:
            images: `(B, C, H, W)` float32, 0..1.
            sizes: (height, width) of each image inside the batch.
        """
        normal = (images - self.mean[:, None, None]) / self.std[:, None, None]
        padded = images.shape[-2:]
        if any(size != tuple(padded) for size in sizes):
            rows = torch.arange(padded[0], device=images.device)
            columns = torch.arange(padded[1], device=images.device)
            limits = torch.tensor(sizes, device=images.device)
            inside = (rows[None, :, None] < limits[:, 0, None, None]) & (
                columns[None, None, :] < limits[:, 1, None, None]
            )
            normal = normal * inside[:, None]
        return normal.contiguous(memory_format=torch.channels_last)

    def compute_total_loss(self, losses: Losses) -> Tensor:
        """The weighted sum of all terms' means; a zero with gradient where there is no term."""
        if not losses:
            return sum(
                (p.sum() * 0.0 for p in self.parameters() if p.requires_grad), self.mean.sum() * 0.0
            )
        return torch.stack(list(self.compute_head_losses(losses).values())).sum()

    def compute_head_losses(self, losses: Losses) -> dict[str, Tensor]:
        """Head -> the sum of its terms' means, times its weight; heads without terms left out."""
        means: dict[str, list[Tensor]] = {}
        for key, term in losses.items():
            means.setdefault(key.split("/")[0], []).append(term.mean())
        return {
            name: self.loss_weights[name] * torch.stack(terms).sum()
            for name, terms in means.items()
        }

    def prepare_for_inference(self) -> TaskModel:
        """This model, which only predicts from now on, with all work on its weights done once.

        Its predictions stay the same to the bit; it cannot be trained any more, and the keys of its
        state dict are others: norms have gone into the convolutions before them.
        """
        self.eval()
        fold_permanently(self)
        self.requires_grad_(False)
        for head in self.named_heads.values():
            head.prepare_for_inference()
        return self

    @torch.inference_mode()
    def predict(self, batch: Batch, *, precision: str = "fp32") -> dict[str, list[Any]]:
        """Predictions of every head, in pixels of the original images.

        Args:
            batch: Images; targets are not used.
            precision: `fp32`, `bf16` or `fp16`.

        Returns:
            Head name -> one prediction per image (`Detections`, `SegmentationMap`, ...).
        """
        raw = self.predict_raw(batch, precision=precision)
        return {
            name: head.decode(raw[name], batch.geometries)
            for name, head in self.named_heads.items()
        }

    @torch.inference_mode()
    def predict_raw(self, batch: Batch, *, precision: str = "fp32") -> Raw:
        """Raw outputs of every head in evaluation mode, adjusted; what `predict` decodes.

        Args:
            batch: Images; targets are not used.
            precision: `fp32`, `bf16` or `fp16`.
        """
        was_training = self.training
        self.eval()
        try:
            with autocast(self.device, precision):
                raw: Raw = self(batch.to(self.device), mode="raw")
        finally:
            self.train(was_training)
        for name, adjust in self.adjustments.items():
            raw[name] = adjust(raw[name])
        return raw


def _select_rows(features: Mapping[str, Tensor], positions: Sequence[int]) -> dict[str, Tensor]:
    batch = next(iter(features.values())).shape[0]
    if len(positions) == batch:
        return dict(features)
    row_indices = torch.tensor(positions, device=next(iter(features.values())).device)
    return {level: feature[row_indices] for level, feature in features.items()}
