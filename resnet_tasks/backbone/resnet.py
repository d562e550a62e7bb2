"""A ResNet as a backbone: image -> `{"C1": .., "C5": ..}`.

The nets come from timm's ResNet family (`family.py`), so that every variant has a name.

Shape glossary: `B` batch size, `C` channels of an image, `H, W` size of the padded batch, `Hk, Wk`
cells of level k with stride 2^k, or `output_stride` where that is smaller.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Literal

import torch
from torch import Tensor, distributed, nn

from resnet_tasks.backbone.family import CUSTOM, LEVELS, ResNetSpec, build_trunk, expand_dilation
from resnet_tasks.backbone.pretrained import IMAGENET_MEAN, IMAGENET_STD, LoadReport, load_weights
from resnet_tasks.errors import ResnetTasksError, WeightsError
from resnet_tasks.layers.efficiency.compact_max_pool import save_indices_as_int32
from resnet_tasks.layers.efficiency.gradient_checkpointing import run_checkpointed
from resnet_tasks.layers.folded_norms import fold_norms
from resnet_tasks.layers.norms import (
    batch_to_group_norm,
    batch_to_sync_norm,
    find_batch_norms,
    find_norms,
)

NORMS = ("train", "frozen", "sync", "group")
_UNTRAINED = ("none", "unloaded")
_UNSYNCHRONIZED = ("cpu", "mps")
"""Devices on which torch cannot share statistics between processes."""


class ResNet(nn.Module):
    """Backbone that computes feature maps of five levels.

    He et al., "Deep Residual Learning for Image Recognition", 2015, Table 1, and the variants that
    timm derives from it. Keys of the state dict are timm's, without classifier. For plain variants
    they equal torchvision's (`conv1.weight`, `bn1.*`, `layer1.0.conv1.weight`, ...). The random
    initialization is timm's: in plain variants Kaiming-normal, and the last norm of every residual
    branch starts at zero, so that each block starts as the identity.

    Frozen stages run without an autograd graph, so that not even their input gets a gradient. They
    are always in evaluation mode and their parameters have `requires_grad` False.

    Attributes:
        name: Name of the variant; `resnet` for a custom depth.
        specs: Level -> channels and stride.
        mean: Mean per channel that the weights expect to be subtracted, 0..1 scale.
        std: Standard deviation per channel that the weights expect to be divided by, 0..1 scale.
        license: License of the weights; empty without weights.
        weights_description: Description of the origin of the weights.
        report: Report of the loaded weights; None without weights.
        contract_dilation: Whether the first block of a dilated stage has the dilation of the stage
            before it; see `expand_dilation`.
        gradient_checkpointing: Whether to checkpoint the residual stages. May be changed at any
            time; neither the keys of the state dict nor the results depend on it.

    Args:
        name: One of `list_backbones()`, or a `ResNetSpec` for a custom depth.
        weights: `none`, `imagenet`, `timm:TAG`, `torchvision:ENUM`, `hf-hub:REPO`,
            `URL#sha256=HEX`, a local file or a run folder (see `pretrained.load_weights`).
            `unloaded` means that the caller loads a state dict next, so that frozen stages are
            allowed.
        in_channels: Channels of an image; the stem is adapted if it is not 3.
        frozen_stages: Number of frozen stages: 0 none, 1 the stem with its pooling, 2..5 the
            stages up to C2..C5.
        norm: Kind of norms. `train` leaves them unchanged. `frozen` fixes the statistics and the
            scale of all norms. `sync` shares the statistics of batch norms between processes (not
            on CPUs; in one process nothing changes). `group` replaces batch norms by group norms
            of 32 groups (fewer if 32 does not divide the channels) with the same scale and offset.
        output_stride: Stride of C5: 32, or 16 or 8 with dilated convolutions in the last stages.
        drop_path: Stochastic depth (Huang et al. 2016): probability that the residual branch of
            the last block is skipped for an image in training. It falls linearly towards the first
            block, as in the paper. Frozen stages skip no branch.
        gradient_checkpointing: Whether stages keep few activations and recompute the others in the
            backward pass. This saves memory at the cost of one more forward pass through the
            stages; the gradients are the same.
        accept_license: Whether to accept weights that forbid commercial use.

    Raises:
        ResnetTasksError: If the name is unknown or not in the family, or an argument is out of
            range.
        WeightsError: If the weights cannot be fetched or read or do not cover the backbone, or if
            random weights would be frozen.
    """

    def __init__(
        self,
        name: str | ResNetSpec,
        *,
        weights: str = "none",
        in_channels: int = 3,
        frozen_stages: int = 0,
        norm: Literal["train", "frozen", "sync", "group"] = "train",
        output_stride: int = 32,
        drop_path: float = 0.0,
        gradient_checkpointing: bool = False,
        accept_license: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(name, str | ResNetSpec):
            raise ResnetTasksError(
                f"backbone.name is {name!r}; allowed: the name of a variant, such as 'resnet18', "
                "or ResNetSpec(layers, block)"
            )
        _check_arguments(in_channels, frozen_stages, norm)
        _check_weights(name, weights, frozen_stages, norm)
        trunk = build_trunk(
            name, in_channels=in_channels, output_stride=output_stride, drop_path=drop_path
        )
        for child, module in trunk.children.items():
            self.add_module(child, module)
        self.name = name if isinstance(name, str) else CUSTOM
        self.frozen_stages = frozen_stages
        self.norm_mode = norm
        self.contract_dilation = True
        self.gradient_checkpointing = gradient_checkpointing
        self.specs = trunk.specs
        self._stages = trunk.stages
        self._levels = {part: level for level, part in trunk.taps.items()}
        self._convert_norms()
        fold_norms(self)
        self.mean, self.std = (
            _adapt_constants(IMAGENET_MEAN, in_channels),
            _adapt_constants(IMAGENET_STD, in_channels),
        )
        self.license = ""
        self.weights_description = "random initialization"
        self.report: LoadReport | None = None
        if weights not in _UNTRAINED:
            self._load(weights, in_channels, accept_license)
        self._freeze()

    def forward(self, images: Tensor, *, coarsest: str | None = None) -> dict[str, Tensor]:
        """Compute the features of all five levels, or of those up to one of them.

        Args:
            images: `(B, C, H, W)` normalized; any memory format, channels-last is the fastest.
            coarsest: Level after which no stage is computed; None: all stages are.

        Returns:
            `C1`..`C5` -> `(B, channels, ceil(H/stride), ceil(W/stride))`; C1 is taken before
            pooling. Levels are taken after the activation, except C1 to C4 of pre-activation nets
            (resnetv2 and nf_resnet), which are the sums that the next block normalizes.

        Raises:
            ResnetTasksError: If norms would share statistics on a device that does not support it.
        """
        self._check_synchronization(images.device)
        features: dict[str, Tensor] = {}
        x = images
        num_stages = len(LEVELS) if coarsest is None else LEVELS.index(coarsest) + 1
        for number, stage in enumerate(self._stages[:num_stages], start=1):
            graph = torch.is_grad_enabled() and number > self.frozen_stages
            with torch.set_grad_enabled(graph):
                for part in stage:
                    x = self._run_part(part, x, number, graph=graph)
                    if part in self._levels:
                        features[self._levels[part]] = x
        return features

    def train(self, mode: bool = True) -> ResNet:
        """Set the training mode; frozen stages and frozen norms stay in evaluation mode."""
        super().train(mode)
        for part in self._list_frozen_parts():
            self.get_submodule(part).eval()
        if self.norm_mode == "frozen":
            for norm in find_norms(self):
                norm.eval()
        return self

    def freeze_stages(self, stages: int) -> None:
        """Freeze the first `stages` stages and unfreeze the others, in place.

        Args:
            stages: 0 none, 1 the stem with its pooling, 2..5 the stages up to C2..C5.

        Raises:
            ResnetTasksError: If `stages` is out of range.
        """
        _check_frozen_stages(stages)
        for part in self._list_frozen_parts():
            self.get_submodule(part).requires_grad_(True)
        self.frozen_stages = stages
        self._freeze()

    def expand_dilation(self) -> None:
        """Give the first block of every dilated stage the dilation of the stage's other blocks.

        In torchvision and timm, it has the dilation of the stage before, which is half of it;
        segmentation_models_pytorch dilates all blocks alike. Without effect at stride 32.
        """
        self.contract_dilation = False
        for number, (spec, parts) in enumerate(
            zip(self.specs.values(), self._stages, strict=True), start=1
        ):
            dilation = 2**number // spec.stride
            if dilation > 1:
                expand_dilation(self.get_submodule(parts[0]), dilation)

    def find_stage(self, parameter: str) -> int:
        """Return the number of the stage that a parameter belongs to.

        Args:
            parameter: Name of the parameter, such as `layer1.0.conv1.weight`.

        Returns:
            1 for the stem, 2..5 for the stages that end in C2..C5.

        Raises:
            KeyError: If there is no such parameter.
        """
        for number, stage in enumerate(self._stages, start=1):
            if any(parameter.startswith(f"{part}.") for part in stage):
                return number
        raise KeyError(parameter)

    @property
    def stage_parts(self) -> tuple[tuple[str, ...], ...]:
        """Module paths of the parts of each stage, the stem first, in execution order."""
        return self._stages

    def _run_part(self, part: str, x: Tensor, number: int, *, graph: bool) -> Tensor:
        """Run one part of stage `number` (1 is the stem), with checkpointing if it is on."""
        blocks = self._get_checkpointed_blocks(part) if graph and number > 1 else []
        if blocks:
            return run_checkpointed(blocks, x)
        # The stem's max pooling saves int64 indices; int32 halves their memory.
        with save_indices_as_int32() if number == 1 else nullcontext():
            output: Tensor = self.get_submodule(part)(x)
        return output

    def _get_checkpointed_blocks(self, part: str) -> list[nn.Module]:
        """Return the blocks of a part that gradient checkpointing recomputes."""
        if not self.gradient_checkpointing:
            return []
        stage = self.get_submodule(part)
        blocks = getattr(stage, "blocks", stage)
        return list(blocks) if isinstance(blocks, nn.Sequential) else []

    def _list_frozen_parts(self) -> list[str]:
        return [part for stage in self._stages[: self.frozen_stages] for part in stage]

    def _convert_norms(self) -> None:
        """Replace the norms by the requested kind.

        Raises:
            ResnetTasksError: If the net has no norm that can be replaced or frozen.
        """
        if self.norm_mode == "train":
            return
        needed = find_batch_norms(self) if self.norm_mode == "sync" else find_norms(self)
        if not needed:
            kind = "batch norms" if self.norm_mode == "sync" else "norms"
            raise ResnetTasksError(
                f"backbone.norm is {self.norm_mode}, but {self.name} has no {kind}; use train"
            )
        if self.norm_mode == "sync":
            batch_to_sync_norm(self)
        elif self.norm_mode == "group":
            # 32 groups, the default of Wu and He 2018 for ResNets.
            batch_to_group_norm(self, lambda channels: math.gcd(32, channels))

    def _check_synchronization(self, device: torch.device) -> None:
        if self.norm_mode != "sync" or not self.training or device.type not in _UNSYNCHRONIZED:
            return
        if distributed.is_available() and distributed.is_initialized():
            processes = distributed.get_world_size()
            if processes > 1:
                raise ResnetTasksError(
                    f"backbone.norm is sync, but torch cannot share statistics between {processes} "
                    f"processes on {device.type}; use backbone.norm=group, or frozen, or GPUs"
                )

    def _load(self, weights: str, in_channels: int, accept_license: bool) -> None:
        report = load_weights(
            self, weights, self.name, in_channels=in_channels, accept_license=accept_license
        )
        lost_statistics = any(key.endswith("running_mean") for key in report.unexpected)
        if self.norm_mode == "group" and self.frozen_stages and lost_statistics:
            raise WeightsError(
                f"backbone.frozen_stages={self.frozen_stages} with backbone.norm=group would "
                f"freeze filters whose batch norms, those of {weights!r}, lose their statistics; "
                "set backbone.frozen_stages=0, or backbone.norm=frozen"
            )
        self.apply_load_report(report, in_channels)

    def apply_load_report(self, report: LoadReport, in_channels: int) -> None:
        """Apply the normalization constants and license of weights that were loaded."""
        self.report = report
        self.mean = _adapt_constants(report.mean, in_channels)
        self.std = _adapt_constants(report.std, in_channels)
        self.license = report.license
        self.weights_description = report.source

    def _freeze(self) -> None:
        for part in self._list_frozen_parts():
            self.get_submodule(part).requires_grad_(False)
        if self.norm_mode == "frozen":
            for norm in find_norms(self):
                norm.requires_grad_(False)
        self.train(self.training)


def _check_arguments(in_channels: int, frozen_stages: int, norm: str) -> None:
    if in_channels < 1:
        raise ResnetTasksError(f"backbone: in_channels is {in_channels}, but must be at least 1")
    _check_frozen_stages(frozen_stages)
    if norm not in NORMS:
        raise ResnetTasksError(f"backbone.norm is {norm!r}; allowed: {', '.join(NORMS)}")


def _check_frozen_stages(stages: int) -> None:
    if not 0 <= stages <= len(LEVELS):
        raise ResnetTasksError(
            f"backbone.frozen_stages is {stages}; allowed: 0 (none), 1 (the stem) to 5 (through C5)"
        )


def _check_weights(name: str | ResNetSpec, weights: str, frozen_stages: int, norm: str) -> None:
    if isinstance(name, ResNetSpec):
        name.check_weights(weights)
    if weights == "none" and (frozen_stages > 0 or norm == "frozen"):
        key, remedy = (
            (f"backbone.frozen_stages={frozen_stages}", "backbone.frozen_stages=0")
            if frozen_stages > 0
            else ("backbone.norm=frozen", "backbone.norm=train")
        )
        raise WeightsError(
            f"{key} with backbone.weights=none would freeze random features; set {remedy}, or "
            "name weights"
        )


def _adapt_constants(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Adapt normalization constants to `channels` channels, as the stem is adapted."""
    if channels == 1:
        return (sum(values) / len(values),)
    return tuple(values[i % len(values)] for i in range(channels))
