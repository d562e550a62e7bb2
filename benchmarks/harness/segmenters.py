"""U-Net and FPN, from segmentation_models.pytorch (smp) and ours, with the same weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.harness.model_pairs import get_memory_format, make_inference, make_training_step
from benchmarks.harness.side_by_side import SURFACES, Work, get_tolerance, require_close
from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.heads.base import HEADS
from resnet_tasks.heads.semantic.semantic_head import SemanticHead
from resnet_tasks.model import TaskModel
from resnet_tasks.runtime.devices import autocast
from resnet_tasks.structures.evaluation import VOID
from resnet_tasks.structures.samples import Batch

PEER = f"smp {version('segmentation-models-pytorch')}"
ARCHITECTURES = {"unet": ("U-Net", smp.Unet), "fpn": ("FPN", smp.FPN)}


def build_our_net(architecture: str, backbone: str, classes: Sequence[str] = SURFACES) -> TaskModel:
    """Build our net with its defaults, in training mode."""
    torch.manual_seed(0)
    net = ResNet(backbone)
    for name, parameter in net.named_parameters():
        if name.endswith("bn2.weight"):
            nn.init.ones_(parameter)  # by default 0, so that blocks would start as the identity
    head = HEADS.get(architecture)(net.specs, classes)
    return TaskModel(net, {"scene": head}).train()


def build_peer_net(architecture: str, backbone: str, ours: TaskModel) -> nn.Module:
    """Build the net of smp with the weights of our net, in training mode."""
    head = ours.named_heads["scene"]
    net: nn.Module = ARCHITECTURES[architecture][1](
        backbone, encoder_weights=None, classes=len(head.classes)
    )
    state = _add_prefix(ours.backbone.state_dict(), "encoder.")
    for key, value in head.state_dict().items():
        state[key.replace("classifier.", "segmentation_head.")] = value
    net.load_state_dict(state)
    return net.train()


def _add_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{key}": value for key, value in state.items()}


def normalize_images(model: TaskModel, batch: Batch, layout: torch.memory_format) -> Tensor:
    """Normalize the images of a batch as both nets expect them."""
    sizes = [geometry.input_size for geometry in batch.geometries]
    return model.normalize(batch.images, sizes).contiguous(memory_format=layout)


def make_our_step(model: TaskModel, batch: Batch, precision: str) -> Work:
    """Make a training step of our net, see `make_training_step`."""

    def compute_loss() -> Tensor:
        return model.compute_total_loss(model(batch, mode="loss"))

    return make_training_step(model, compute_loss, batch.images.device, precision)


def make_peer_step(model: nn.Module, ours: TaskModel, batch: Batch, precision: str) -> Work:
    """Make a training step of the peer in a plain loop, normalization included.

    The images have the memory format of the filters.
    """
    labels = torch.stack([_require_labels(target.semantic) for target in batch.targets])
    layout = get_memory_format(model)

    def compute_loss() -> Tensor:
        logits = model(normalize_images(ours, batch, layout))
        return F.cross_entropy(logits, labels, ignore_index=VOID)

    return make_training_step(model, compute_loss, batch.images.device, precision)


def _require_labels(semantic: Tensor | None) -> Tensor:
    assert semantic is not None
    return semantic


def make_our_forward(model: TaskModel, batch: Batch, precision: str) -> Work:
    """Make a forward pass of our net, from the batch to logits."""
    device = batch.images.device
    return make_inference(lambda: model(batch, mode="raw")["scene"]["logits"], device, precision)


def make_peer_forward(model: nn.Module, ours: TaskModel, batch: Batch, precision: str) -> Work:
    """Make a forward pass of the peer with normalization, in the memory format of the filters."""
    layout = get_memory_format(model)
    device = batch.images.device
    return make_inference(lambda: model(normalize_images(ours, batch, layout)), device, precision)


def require_same_logits(ours: TaskModel, theirs: nn.Module, batch: Batch, precision: str) -> str:
    """Compare the logits of both nets in evaluation mode, and describe the difference.

    FPN's logits are compared before they are resized to full size, because the peer aligns the
    corners of the maps and ours the pixels.

    Raises:
        DataError: If they differ by more than the precision explains.
    """
    modes = ours.training, theirs.training
    ours.eval()
    theirs.eval()
    head, images = (
        ours.named_heads["scene"],
        normalize_images(ours, batch, get_memory_format(theirs)),
    )
    assert isinstance(head, SemanticHead)
    with torch.inference_mode(), autocast(batch.images.device, precision):
        our_logits = head.classifier(head.pixel_features(ours.compute_features(images)))
        encoded = theirs.encoder(images)  # type: ignore[operator]
        peer_logits = theirs.segmentation_head[0](theirs.decoder(encoded))  # type: ignore[index,operator]
    ours.train(modes[0])
    theirs.train(modes[1])
    difference = require_close(
        f"logits in {precision}", our_logits, peer_logits, get_tolerance(precision)
    )
    return f"logits {difference:.1g} apart"
