"""Segmenters of segmentation_models_pytorch (smp) as weights of semantic heads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from resnet_tasks.heads.foreign_weights import (
    FilledHead,
    ForeignEncoder,
    ForeignModel,
    ForeignWeights,
    format_names,
)
from resnet_tasks.structures.evaluation import BACKGROUND


class SmpSegmenter(ForeignWeights):
    """Segmenter of smp, whose decoder and classifier fill a semantic head.

    - smp does not name the classes. If the file has as many rows as the head needs, they are used
      in order.
    - A segmenter with one class (a sigmoid) is converted to background and that class (a softmax)
      with the same probabilities.

    Args:
        architecture: Name of smp's model, such as "U-Net".
        sign: Prefix of a name in the decoder that only this architecture has.
    """

    mismatch_hint = ", whatever its options are; choose a model with the library's default decoder"

    def __init__(self, architecture: str, sign: str) -> None:
        self.source = f"a {architecture} of segmentation_models_pytorch"
        self.sign = sign

    def split(self, tensors: Mapping[str, Tensor]) -> ForeignModel | None:
        """Split a segmenter with the parts `encoder`, `decoder` and `segmentation_head`."""
        parts = {key.split(".")[0] for key in tensors}
        if not {"encoder", "decoder", "segmentation_head"} <= parts or not any(
            key.startswith(f"decoder.{self.sign}") for key in tensors
        ):
            return None
        encoder: dict[str, Tensor] = {}
        head: dict[str, Tensor] = {}
        for key, value in tensors.items():
            part, _, suffix = key.partition(".")
            if part == "encoder":
                encoder[suffix] = value
            else:
                head[f"classifier.{suffix}" if part == "segmentation_head" else key] = value
        return ForeignModel(
            self.source,
            _rename_encoder(encoder),
            head,
            # The auxiliary branch of a head depends on the classes too; smp has none.
            ("classifier.", "auxiliary."),
            ("classification_head.",),
        )

    def select_predictor_rows(
        self, head: FilledHead, model: ForeignModel, name: str
    ) -> tuple[dict[str, Tensor] | None, list[str]]:
        """Select the rows of the classifier for the classes of a head."""
        rows, note = _select_classifier_rows(head, model, name)
        notes = [note]
        if head.options.auxiliary_level is not None:
            notes.append(f"heads.{name}: the auxiliary branch starts from random weights")
        return rows, notes

    def read_encoder(self, configuration: Mapping[str, Any]) -> ForeignEncoder | None:
        """Return the encoder that `config.json` states."""
        name = configuration.get("encoder_name")
        return read_smp_encoder(name, configuration) if isinstance(name, str) else None

    def check_configuration(self, configuration: Mapping[str, Any]) -> str | None:
        """Reject decoders with another upsampling than that of this package."""
        mode = configuration.get("decoder_interpolation")
        if mode in (None, "nearest"):
            return None
        return (
            f"sets decoder_interpolation to {mode!r}, but the decoders of this package only "
            "support 'nearest'; choose a model that was trained with 'nearest'"
        )


def _select_classifier_rows(
    head: FilledHead, model: ForeignModel, name: str
) -> tuple[dict[str, Tensor] | None, str]:
    """Select the rows of the classifier and return a note; None if they start from random weights.

    Args:
        head: Head that is filled.
        model: Model of smp.
        name: Name of the head in the recipe.
    """
    weight, bias = (model.head.get(f"classifier.0.{parameter}") for parameter in ("weight", "bias"))
    if weight is None or bias is None:
        return None, (
            f"heads.{name}: the file has no classifier; the head's classifier starts from random "
            "weights"
        )
    rows, classes = len(weight), head.classes
    if rows == len(classes):
        note = (
            f"heads.{name}: the classifier's {rows} rows are used in order for "
            f"{format_names(classes)}"
        )
        return {"classifier.0.weight": weight, "classifier.0.bias": bias}, note
    if rows == 1 and len(classes) == 2 and classes[0] == BACKGROUND:
        # softmax([0, x]) equals [1 - sigmoid(x), sigmoid(x)].
        weight, bias = (torch.cat([torch.zeros_like(tensor), tensor]) for tensor in (weight, bias))
        note = f"heads.{name}: the file's one class is used for {classes[1]}"
        return {"classifier.0.weight": weight, "classifier.0.bias": bias}, note
    return None, (
        f"heads.{name}: only the classifier starts from random weights, because the file has "
        f"{rows} classes and the head has {len(classes)} ({format_names(classes)})"
    )


def read_smp_encoder(name: str, configuration: Mapping[str, Any]) -> ForeignEncoder:
    """Return the encoder of a model of smp, and the backbone variant that computes the same.

    `tu-NAME` is timm's NAME, and so are most names with `timm-`. Names without prefix are
    torchvision's ResNets and ResNeXts, and Squeeze-and-Excitation networks that timm calls legacy.
    smp dilates encoders without `tu-` itself, the first block of a stage included.

    Args:
        name: Name of the encoder in smp.
        configuration: Content of `config.json`.
    """
    depth = int(configuration.get("encoder_depth", 5))
    output_stride = int(configuration.get("encoder_output_stride", 32))
    if name.startswith(("tu-", "timm-res")):
        variant = name.partition("-")[2]
        problem = ""
        if depth == 5 and variant.startswith(("resnetv2", "nf_")):
            problem = "smp reads its C5 before the final norm and activation, this package after"
        return ForeignEncoder(name, variant, problem, depth, output_stride)
    variant = name.removeprefix("timm-")
    if name.startswith(("se_", "senet")):
        variant = f"legacy_{name.replace('_', '', 1)}"
    problem = ""
    if variant.startswith("skres"):
        problem = "smp builds it with other widths than timm"
    elif output_stride < 2**depth and not name.startswith(("resnet", "resnext")):
        problem = f"smp dilates it (encoder_output_stride {output_stride}) as no backbone does"
    return ForeignEncoder(name, variant, problem, depth, output_stride, contract_dilation=False)


def _rename_encoder(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate the names of encoders that smp takes from timm to timm's own names."""
    if not all(key.startswith("model.") for key in tensors):
        return dict(tensors)
    # A list of features flattens the containers of stem and stages.
    flattened = re.compile(r"^(stem|stages)_")
    return {
        flattened.sub(r"\1.", key.removeprefix("model.")): value for key, value in tensors.items()
    }


class SmpUNet(SmpSegmenter):
    """U-Net of smp."""

    def __init__(self) -> None:
        super().__init__("U-Net", "blocks.0.conv1.")

    def split(self, tensors: Mapping[str, Tensor]) -> ForeignModel | None:
        """Split a U-Net; a MA-Net has blocks of the same names, and more layers in them."""
        if any(key.startswith("decoder.blocks.0.hl_conv.") for key in tensors):
            return None
        return super().split(tensors)

    def infer_options(self, head: FilledHead, tensors: Mapping[str, Tensor]) -> dict[str, Any]:  # noqa: ARG002
        """Infer the channels of the blocks and the kind of norms."""
        blocks = {
            int(match[1]): len(value)
            for key, value in tensors.items()
            if (match := re.match(r"decoder\.blocks\.(\d+)\.conv2\.0\.weight$", key))
        }
        channels = tuple(blocks[index] for index in sorted(blocks)) if len(blocks) == 5 else None
        has_statistics = any(key.endswith("running_var") for key in tensors)
        return {"decoder_channels": channels, "norm": "batch" if has_statistics else None}


class SmpFPN(SmpSegmenter):
    """FPN of smp."""

    def __init__(self) -> None:
        super().__init__("FPN", "p5.")

    def infer_options(self, head: FilledHead, tensors: Mapping[str, Tensor]) -> dict[str, Any]:  # noqa: ARG002
        """Infer the channels of pyramid and branches, and how the branches join."""
        pyramid = tensors.get("decoder.p5.weight")
        branch = tensors.get("decoder.seg_blocks.0.block.0.block.0.weight")
        classifier = tensors.get("classifier.0.weight")
        if pyramid is None or branch is None or classifier is None:
            return {}
        return {
            "pyramid_channels": len(pyramid),
            "segmentation_channels": len(branch),
            "merge": "add" if classifier.shape[1] == len(branch) else "cat",
        }
