"""U-Net and FPN twice: segmentation_models.pytorch's models and ours with the same weights."""

from __future__ import annotations

from collections.abc import Mapping

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.side_by_side import SURFACES, Work, of_precision, require_close
from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.heads.base import HEADS
from resnet_tasks.heads.semantic import SemanticHead
from resnet_tasks.model import TaskModel, autocast
from resnet_tasks.structures import VOID, Batch

ARCHITECTURES = {"unet": ("U-Net", smp.Unet), "fpn": ("FPN", smp.FPN)}


def our_net(architecture: str, backbone: str) -> TaskModel:
    """Our net with its defaults; in training mode."""
    torch.manual_seed(0)
    net = ResNet(backbone)
    for name, parameter in net.named_parameters():
        if name.endswith("bn2.weight"):
            nn.init.ones_(parameter)  # else the blocks start as the identity
    head = HEADS.get(architecture)(net.specs, SURFACES)
    return TaskModel(net, {"scene": head}).train()


def peers_net(architecture: str, backbone: str, ours: TaskModel) -> nn.Module:
    """The net of segmentation_models.pytorch with the weights of `our_net`; in training mode."""
    made: nn.Module = ARCHITECTURES[architecture][1](
        backbone, encoder_weights=None, classes=len(SURFACES)
    )
    state = _renamed(ours.backbone.state_dict(), "encoder.")
    for key, value in ours.named_heads["scene"].state_dict().items():
        state[key.replace("classifier.", "segmentation_head.")] = value
    made.load_state_dict(state)
    return made.train()


def _renamed(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{key}": value for key, value in state.items()}


def normalised(model: TaskModel, batch: Batch) -> Tensor:
    """The pictures as both nets read them."""
    sizes = [each.input_size for each in batch.geometries]
    return model.normalise(batch.images, sizes).contiguous()


def our_step(model: TaskModel, batch: Batch, precision: str) -> Work:
    """Loss, gradients and an optimizer step of rate 0, so that every step is the same."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)

    def step() -> None:
        with autocast(batch.images.device, precision):
            losses = model(batch, mode="loss")
        model.total_loss(losses).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return step


def peers_step(
    model: nn.Module, ours: TaskModel, batch: Batch, precision: str, *, channels_last: bool
) -> Work:
    """The same in a plain loop, normalising included."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    labels = torch.stack([_labels(each.semantic) for each in batch.targets])
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def step() -> None:
        images = normalised(ours, batch).contiguous(memory_format=layout)
        with autocast(batch.images.device, precision):
            loss = F.cross_entropy(model(images), labels, ignore_index=VOID)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return step


def _labels(semantic: Tensor | None) -> Tensor:
    assert semantic is not None
    return semantic


def our_forward(model: TaskModel, batch: Batch, precision: str) -> Work:
    """Logits of the batch."""

    def forward() -> Tensor:
        with torch.inference_mode(), autocast(batch.images.device, precision):
            logits: Tensor = model(batch, mode="raw")["scene"]["logits"]
        return logits

    return forward


def peers_forward(
    model: nn.Module, ours: TaskModel, batch: Batch, precision: str, *, channels_last: bool
) -> Work:
    """The same in a plain loop, normalising included."""
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def forward() -> Tensor:
        images = normalised(ours, batch).contiguous(memory_format=layout)
        with torch.inference_mode(), autocast(batch.images.device, precision):
            logits: Tensor = model(images)
        return logits

    return forward


def require_same_logits(ours: TaskModel, theirs: nn.Module, batch: Batch, precision: str) -> str:
    """How near the logits are, both nets in evaluation mode.

    They are compared before FPN's are brought to full size, where the peer aligns the corners of
    the maps and ours the pixels.

    Raises:
        DataError: If they are further apart than the precision explains.
    """
    modes = ours.training, theirs.training
    ours.eval()
    theirs.eval()
    head, images = ours.named_heads["scene"], normalised(ours, batch)
    assert isinstance(head, SemanticHead)
    with torch.inference_mode(), autocast(batch.images.device, precision):
        mine = head.classifier(head.pixel_features(ours.features(images)))
        encoded = theirs.encoder(images)  # type: ignore[operator]
        yours = theirs.segmentation_head[0](theirs.decoder(encoded))  # type: ignore[index,operator]
    ours.train(modes[0])
    theirs.train(modes[1])
    apart = require_close(f"logits in {precision}", mine, yours, of_precision(precision))
    return f"logits {apart:.1g} apart"
