"""Semantic segmentation, from segmentation_models.pytorch (smp) and ours, with the same weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

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


@dataclass(frozen=True)
class Architecture:
    """A kind of net with smp's defaults, or its defaults in the paper where smp's differ in work.

    Attributes:
        name: Name for the table.
        build_peer: Class of smp.
        output_stride: Stride of C5 in both nets.
        peer_options: Options of smp's class other than its defaults.
    """

    name: str
    build_peer: Callable[..., nn.Module]
    output_stride: int = 32
    peer_options: tuple[tuple[str, int], ...] = ()


ARCHITECTURES = {
    "unet": Architecture("U-Net", smp.Unet),
    "fpn": Architecture("FPN", smp.FPN),
    "unetplusplus": Architecture("U-Net++", smp.UnetPlusPlus),
    "manet": Architecture("MA-Net", smp.MAnet),
    "linknet": Architecture("LinkNet", smp.Linknet),
    "deeplabv3": Architecture("DeepLab v3", smp.DeepLabV3, output_stride=8),
    "deeplabv3plus": Architecture("DeepLab v3+", smp.DeepLabV3Plus, output_stride=16),
    # smp's default reads C3.
    "pspnet": Architecture(
        "PSPNet", smp.PSPNet, peer_options=(("encoder_depth", 5), ("upsampling", 32))
    ),
    "pan": Architecture("PAN", smp.PAN, output_stride=16),
    "upernet": Architecture("UPerNet", smp.UPerNet),
    "segformer": Architecture("SegFormer", smp.Segformer),
}
"""Type of a head -> the net that is built with it."""


def build_our_net(architecture: str, backbone: str, classes: Sequence[str] = SURFACES) -> TaskModel:
    """Build our net with its defaults, in training mode."""
    torch.manual_seed(0)
    net = ResNet(backbone, output_stride=ARCHITECTURES[architecture].output_stride)
    net.expand_dilation()  # as in smp
    for name, parameter in net.named_parameters():
        if name.endswith("bn2.weight"):
            nn.init.ones_(parameter)  # by default 0, so that blocks would start as the identity
    head = HEADS.get(architecture)(net.specs, classes)
    return TaskModel(net, {"scene": head}).train()


def build_peer_net(architecture: str, backbone: str, ours: TaskModel) -> nn.Module:
    """Build the net of smp with the weights of our net, in training mode."""
    head = ours.named_heads["scene"]
    kind = ARCHITECTURES[architecture]
    options = dict(kind.peer_options)
    net = kind.build_peer(backbone, encoder_weights=None, classes=len(head.classes), **options)
    state = _add_prefix(ours.backbone.state_dict(), "encoder.")
    for key, value in head.state_dict().items():
        state[key.replace("classifier.", "segmentation_head.")] = value
    net.load_state_dict(state)
    return net.train()


def list_parts(model: Any) -> dict[str, nn.Module]:
    """Return the modules of our model, or of the peer's, whose time is measured separately."""
    if isinstance(model, TaskModel):
        modules = (model.backbone, model.named_heads["scene"].get_submodule("decoder"))
    else:
        modules = (model.encoder, model.decoder)
    return dict(zip(("backbone", "decoder"), modules, strict=True))


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
