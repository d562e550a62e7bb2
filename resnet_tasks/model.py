"""One backbone, many heads: normalize -> backbone (-> shared pyramid) -> heads.

Shape glossary: `B` batch size, `C` channels, `H, W` padded batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, overload

import torch
from torch import Tensor, nn

from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.errors import RecipeError
from resnet_tasks.heads.base import Head
from resnet_tasks.layers.feature_pyramid import FeaturePyramid
from resnet_tasks.layers.folded_norms import fold_permanently
from resnet_tasks.number_formats import Count
from resnet_tasks.runtime.devices import autocast
from resnet_tasks.structures.feature_spec import FeatureSpec
from resnet_tasks.structures.label_table import LabelTable
from resnet_tasks.structures.loss_term import LossTerm
from resnet_tasks.structures.samples import Batch

Losses = dict[str, LossTerm]
Raw = dict[str, dict[str, Tensor]]
HeadOutputs = dict[str, dict[str, Tensor]]


class Backbone(Protocol):
    """Interface that the model needs: `backbone.ResNet`, or a module of the user."""

    specs: dict[str, FeatureSpec]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Map normalized `(B, C, H, W)` to level -> `(B, channels, H/stride, W/stride)`."""
        ...


class TaskModel(nn.Module):
    """A shared backbone with named heads; the backbone runs once for all of them.

    Args:
        backbone: Module with the attributes `specs`, `mean` and `std`.
        heads: Name -> head, built on the specs of the backbone.
        label_tables: Head name -> table from the dataset's categories to the head's classes;
            default: the classes are the dataset's categories, in order.
        loss_weights: Head name -> weight of its loss terms in the total; default: 1.
        lr_scales: Head name -> its learning rate relative to that of the run; default: 1.
        pyramid: Shared pyramid, whose levels are added to those of the backbone and computed once
            for all heads that read them.

    Raises:
        RecipeError: If an argument has another type, there is no head, or a head's name cannot be
            the name of a torch module.

    Attributes:
        frozen: Names of the frozen parts: `backbone`, `pyramid` or names of heads; see `freeze`.
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
        if not isinstance(backbone, nn.Module) or not hasattr(backbone, "specs"):
            raise RecipeError(
                f"backbone has the type {type(backbone).__name__}; allowed: a module with specs, "
                'mean and std, such as resnet_tasks.ResNet("resnet18")'
            )
        if not isinstance(heads, Mapping):
            raise RecipeError(
                f"heads has the type {type(heads).__name__}; allowed: a mapping of names to heads, "
                'such as {"objects": FasterRCNN(backbone.specs, classes)}'
            )
        for name, head in heads.items():
            if not isinstance(head, nn.Module):
                raise RecipeError(
                    f"heads[{name!r}] has the type {type(head).__name__}; allowed: a head, such as "
                    "FasterRCNN(backbone.specs, classes)"
                )
        if not heads:
            raise RecipeError("a model needs at least one head")
        empty = nn.ModuleDict()
        for name in heads:
            if not isinstance(name, str) or not name or "." in name or hasattr(empty, name):
                raise RecipeError(
                    f"the head name {name!r} is not allowed: torch refuses module names that are "
                    "empty, contain a dot or equal one of its methods; rename the head"
                )
        if pyramid is not None:
            pyramid.skip_finest_levels(
                {level for head in heads.values() for level in head.in_levels}
            )
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
        self.frozen: tuple[str, ...] = ()
        self.register_buffer("mean", torch.tensor(backbone.mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(backbone.std, dtype=torch.float32))

    def set_normalization(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Replace the normalization constants of the weights, for example by those of the data.

        The constants are saved and loaded with the model.

        Args:
            mean: Mean per channel, 0..1 scale.
            std: Standard deviation per channel, 0..1 scale.

        Raises:
            RecipeError: If there is not one value per channel, or a `std` is not above 0.
        """
        for name, values in (("mean", mean), ("std", std)):
            if len(values) != len(self.mean):
                raise RecipeError(
                    f"data.normalize: {name} has {Count(len(values)):value}, but the model takes "
                    f"{Count(len(self.mean)):channel}; give one value per channel"
                )
        if not all(value > 0 for value in std):
            raise RecipeError(f"data.normalize: std is {list(std)}; every value must be above 0")
        with torch.no_grad():
            self.mean.copy_(torch.tensor(list(mean), dtype=torch.float32))
            self.std.copy_(torch.tensor(list(std), dtype=torch.float32))

    @property
    def named_heads(self) -> dict[str, Head]:
        """Mapping of head names to heads."""
        return {name: head for name, head in self.heads.items() if isinstance(head, Head)}

    @property
    def trained_heads(self) -> tuple[str, ...]:
        """Names of the heads that are not frozen."""
        return tuple(name for name in self.named_heads if name not in self.frozen)

    @property
    def has_unread_stages(self) -> bool:
        """Whether nothing reads the backbone's last level, so that its stage gets no gradient."""
        return self._find_coarsest_level() != list(self.backbone.specs)[-1]

    def _find_coarsest_level(self) -> str:
        """Return the coarsest level of the backbone that a head or the pyramid reads."""
        read = {level for head in self.named_heads.values() for level in head.in_levels}
        if self.pyramid is not None:
            read |= set(self.pyramid.in_levels)
        levels = list(self.backbone.specs)
        return ([level for level in levels if level in read] or levels)[-1]

    def freeze(self, parts: Sequence[str]) -> None:
        """Freeze the parameters and the norm statistics of some parts.

        Frozen heads have no losses and need no labels. They still predict.

        Args:
            parts: Names of parts: `backbone`, `pyramid` or names of heads.

        Raises:
            RecipeError: If there is no such part.
        """
        part_names = ["backbone", *(["pyramid"] if self.pyramid is not None else []), *self.heads]
        for part in parts:
            if part not in part_names:
                raise RecipeError(
                    f"{part!r} cannot be frozen: the model has no such part; it has "
                    f"{', '.join(part_names)}"
                )
        self.frozen = tuple(parts)
        for part in parts:
            self._get_part(part).requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> TaskModel:
        """Set the training mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        for part in self.frozen:
            self._get_part(part).eval()
        return self

    def _get_part(self, name: str) -> nn.Module:
        return self.get_submodule(name if name in ("backbone", "pyramid") else f"heads.{name}")

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.mean.device

    @overload
    def forward(self, batch: Batch, *, mode: Literal["loss"]) -> Losses: ...
    @overload
    def forward(self, batch: Batch, *, mode: Literal["raw"]) -> Raw: ...
    def forward(self, batch: Batch, *, mode: Literal["loss", "raw"]) -> Losses | Raw:
        """Compute the losses or the raw outputs of all heads.

        Args:
            batch: Batch on the model's device.
            mode: `loss` returns `{"head/term": LossTerm}` without frozen heads and without heads
                that have no annotated image in the batch. `raw` returns `{head: {name: tensor}}`.
        """
        sizes = [geometry.input_size for geometry in batch.geometries]
        features = self._select_levels(self.compute_features(self.normalize(batch.images, sizes)))
        if mode == "raw":
            return {name: head(features) for name, head in self.named_heads.items()}
        losses: Losses = {}
        for name in self.trained_heads:
            head = self.named_heads[name]
            fields = head.task_spec.required_fields
            positions = batch.find_annotated(fields, self.label_tables[name])
            if not positions:
                continue
            view = batch.make_view(self.label_tables[name], positions)
            for term, value in head.loss(_select_rows(features, positions), view).items():
                losses[f"{name}/{term}"] = value
        return losses

    @property
    def specs(self) -> dict[str, FeatureSpec]:
        """All levels that heads can read: those of the backbone and of the shared pyramid."""
        return {**self.backbone.specs, **({} if self.pyramid is None else self.pyramid.specs)}

    def compute_features(self, images: Tensor) -> dict[str, Tensor]:
        """Map normalized images to level -> `(B, channels, H/stride, W/stride)`, for all heads.

        Stages of a `ResNet` after the last level that is read are not computed.
        """
        backbone: Any = self.backbone
        # A backbone of the user computes all levels.
        limit = {"coarsest": self._find_coarsest_level()} if isinstance(backbone, ResNet) else {}
        features: dict[str, Tensor] = backbone(images, **limit)
        return features if self.pyramid is None else {**features, **self.pyramid(features)}

    def _select_levels(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keep only the levels that a head reads, so that the memory of the others is freed."""
        read = {level for head in self.named_heads.values() for level in head.in_levels}
        return {level: feature for level, feature in features.items() if level in read}

    def normalize(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """Normalize pixels as the backbone's weights expect, and set the padding to 0.

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
        """Sum the weighted losses of all heads; without terms, return a zero with a gradient."""
        if not losses:
            return sum(
                (p.sum() * 0.0 for p in self.parameters() if p.requires_grad), self.mean.sum() * 0.0
            )
        return torch.stack(list(self.compute_head_losses(losses).values())).sum()

    def compute_head_losses(self, losses: Losses) -> dict[str, Tensor]:
        """Return head -> weight times the sum of its terms' means; skip heads without terms."""
        means: dict[str, list[Tensor]] = {}
        for key, term in losses.items():
            means.setdefault(key.split("/")[0], []).append(term.mean())
        return {
            name: self.loss_weights[name] * torch.stack(terms).sum()
            for name, terms in means.items()
        }

    def prepare_for_inference(self) -> TaskModel:
        """Prepare the model for prediction only: precompute all work that depends on the weights.

        Predictions stay identical to the bit. The model can no longer be trained, and the keys of
        its state dict change, because norms are folded into the convolutions before them.
        """
        self.eval()
        fold_permanently(self)
        self.requires_grad_(False)
        for head in self.named_heads.values():
            head.prepare_for_inference()
        return self

    @torch.inference_mode()
    def predict(self, batch: Batch, *, precision: str = "fp32") -> dict[str, list[Any]]:
        """Predict with every head, in pixels of the original images.

        Args:
            batch: Images to predict; targets are ignored.
            precision: `fp32`, `bf16` or `fp16`.

        Returns:
            Head name -> one prediction per image (`Detections`, `SegmentationMap`, ...).
        """
        outputs = self.compute_outputs(batch, precision=precision)
        return {
            name: head.task_spec.decode(outputs[name], batch.geometries)
            for name, head in self.named_heads.items()
        }

    @torch.inference_mode()
    def compute_outputs(self, batch: Batch, *, precision: str = "fp32") -> HeadOutputs:
        """Compute the declared outputs of every head in evaluation mode.

        Args:
            batch: Images to predict; targets are ignored.
            precision: `fp32`, `bf16` or `fp16`.

        Returns:
            Head name -> output name -> tensor, in pixels of the batch; see `Task.outputs`.
        """
        was_training = self.training
        self.eval()
        try:
            with autocast(self.device, precision):
                raw: Raw = self(batch.to(self.device), mode="raw")
        finally:
            self.train(was_training)
        sizes = torch.tensor(
            [geometry.input_size for geometry in batch.geometries], device=self.device
        )
        return {name: head.outputs(raw[name], sizes) for name, head in self.named_heads.items()}


def _select_rows(features: Mapping[str, Tensor], positions: Sequence[int]) -> dict[str, Tensor]:
    batch = next(iter(features.values())).shape[0]
    if len(positions) == batch:
        return dict(features)
    row_indices = torch.tensor(positions, device=next(iter(features.values())).device)
    return {level: feature[row_indices] for level, feature in features.items()}
