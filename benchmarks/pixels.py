"""U-Net and FPN twice: segmentation_models.pytorch's models and ours with the same weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.model_pairs import inference, layout_of, training_step
from benchmarks.side_by_side import SURFACES, Work, of_precision, require_close
from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.heads.base import HEADS
from resnet_tasks.heads.semantic import SemanticHead
from resnet_tasks.model import TaskModel, autocast
from resnet_tasks.structures import VOID, Batch

PEER = f"smp {version('segmentation-models-pytorch')}"
ARCHITECTURES = {"unet": ("U-Net", smp.Unet), "fpn": ("FPN", smp.FPN)}


def our_net(architecture: str, backbone: str, classes: Sequence[str] = SURFACES) -> TaskModel:
    """Our net with its defaults; in training mode."""
    torch.manual_seed(0)
    net = ResNet(backbone)
    for name, parameter in net.named_parameters():
        if name.endswith("bn2.weight"):
            nn.init.ones_(parameter)  # else the blocks start as the identity
    head = HEADS.get(architecture)(net.specs, classes)
    return TaskModel(net, {"scene": head}).train()


def peers_net(architecture: str, backbone: str, ours: TaskModel) -> nn.Module:
    """The net of segmentation_models.pytorch with the weights of `our_net`; in training mode."""
    head = ours.named_heads["scene"]
    made: nn.Module = ARCHITECTURES[architecture][1](
        backbone, encoder_weights=None, classes=len(head.classes)
    )
    state = _renamed(ours.backbone.state_dict(), "encoder.")
    for key, value in head.state_dict().items():
        state[key.replace("classifier.", "segmentation_head.")] = value
    made.load_state_dict(state)
    return made.train()


def _renamed(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{key}": value for key, value in state.items()}


def normalised(model: TaskModel, batch: Batch, layout: torch.memory_format) -> Tensor:
    """The pictures as both nets read them."""
    sizes = [each.input_size for each in batch.geometries]
    return model.normalise(batch.images, sizes).contiguous(memory_format=layout)


def our_step(model: TaskModel, batch: Batch, precision: str) -> Work:
    """A training step, see `training_step`."""

    def loss() -> Tensor:
        return model.total_loss(model(batch, mode="loss"))

    return training_step(model, loss, batch.images.device, precision)


def peers_step(model: nn.Module, ours: TaskModel, batch: Batch, precision: str) -> Work:
    """The same in a plain loop, normalising included; pictures in the layout of the filters."""
    labels = torch.stack([_labels(each.semantic) for each in batch.targets])
    layout = layout_of(model)

    def loss() -> Tensor:
        logits = model(normalised(ours, batch, layout))
        return F.cross_entropy(logits, labels, ignore_index=VOID)

    return training_step(model, loss, batch.images.device, precision)


def _labels(semantic: Tensor | None) -> Tensor:
    assert semantic is not None
    return semantic


def our_forward(model: TaskModel, batch: Batch, precision: str) -> Work:
    """Logits of the batch."""
    device = batch.images.device
    return inference(lambda: model(batch, mode="raw")["scene"]["logits"], device, precision)


def peers_forward(model: nn.Module, ours: TaskModel, batch: Batch, precision: str) -> Work:
    """The same in a plain loop, normalising included; pictures in the layout of the filters."""
    layout = layout_of(model)
    device = batch.images.device
    return inference(lambda: model(normalised(ours, batch, layout)), device, precision)


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
    head, images = ours.named_heads["scene"], normalised(ours, batch, layout_of(theirs))
    assert isinstance(head, SemanticHead)
    with torch.inference_mode(), autocast(batch.images.device, precision):
        mine = head.classifier(head.pixel_features(ours.features(images)))
        encoded = theirs.encoder(images)  # type: ignore[operator]
        yours = theirs.segmentation_head[0](theirs.decoder(encoded))  # type: ignore[index,operator]
    ours.train(modes[0])
    theirs.train(modes[1])
    apart = require_close(f"logits in {precision}", mine, yours, of_precision(precision))
    return f"logits {apart:.1g} apart"
