"""Decoders of segmentation_models_pytorch (smp) as weights of the heads that are built on them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from resnet_tasks.heads.foreign_weights import FilledHead
from resnet_tasks.heads.semantic.foreign_weights import SmpSegmenter

Tensors = Mapping[str, Tensor]
POOL_SIZES = (1, 2, 3, 6)
"""Cells per side of the pooled maps in all models of smp."""
_BLOCK = re.compile(r"decoder\.blocks\.(?:x_0_)?(\d+)\.conv2\.0\.weight$")
_OLD_DEEPLAB = {
    "decoder.0.": "decoder.aspp.",
    "decoder.1.": "decoder.conv.",
    "decoder.2.": "decoder.bn.",
}
"""Prefixes of DeepLab v3 in early versions of smp -> those of today."""


class SmpDecoder(SmpSegmenter):
    """Segmenter of smp whose decoder is that of the head.

    Args:
        architecture: Name of smp's model, such as "PAN".
        sign: Prefix of a name in the decoder that only this architecture has.
        infer: Function from the tensors to the options that they reveal; norms are added.
        settings: Key of `config.json` -> name of the option that has its value.
        mismatch_hint: Text appended to the error about a model that fits no options.
    """

    def __init__(
        self,
        architecture: str,
        sign: str,
        infer: Callable[[Tensors], dict[str, Any]],
        settings: Mapping[str, str] | None = None,
        mismatch_hint: str = "",
    ) -> None:
        super().__init__(architecture, sign)
        self._infer = infer
        self._settings = {"encoder_depth": "depth", **(settings or {})}
        self.configured_options = tuple((settings or {}).values())
        self.mismatch_hint = mismatch_hint

    def infer_options(self, head: FilledHead, tensors: Tensors) -> dict[str, Any]:
        """Infer the options that the shapes of the tensors reveal."""
        has_statistics = any(key.endswith("running_var") for key in tensors)
        options = {"norm": "batch" if has_statistics else None, **self._infer(tensors)}
        return {name: value for name, value in options.items() if hasattr(head.options, name)}

    def read_configured_options(self, configuration: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options that `config.json` states."""
        values = {
            option: configuration[key]
            for key, option in self._settings.items()
            if configuration.get(key) is not None
        }
        return {
            option: tuple(value) if isinstance(value, list) else value
            for option, value in values.items()
        }

    def check_configuration(self, configuration: Mapping[str, Any]) -> str | None:
        """Reject norms and attention that the tensors do not always reveal."""
        norm = configuration.get("decoder_use_norm", True)
        if norm not in (None, True, "batchnorm", {"type": "batchnorm"}):
            return (
                f"sets decoder_use_norm to {norm!r}, but the decoders of this package support "
                "'batchnorm' only for weights of this library"
            )
        attention = configuration.get("decoder_attention_type")
        if attention is not None:
            return (
                f"sets decoder_attention_type to {attention!r}, which the decoders of this package "
                "do not have"
            )
        return None


def _get_length(tensors: Tensors, name: str) -> int | None:
    tensor = tensors.get(f"decoder.{name}.weight")
    return None if tensor is None else len(tensor)


def _count(tensors: Tensors, prefix: str) -> int:
    """Count the different numbers that follow `decoder.` and a prefix."""
    matches = (re.match(rf"decoder\.{prefix}(\d+)\.", key) for key in tensors)
    return len({match[1] for match in matches if match})


def _infer_blocks(tensors: Tensors) -> dict[str, Any]:
    blocks = {int(match[1]): len(v) for k, v in tensors.items() if (match := _BLOCK.match(k))}
    channels = tuple(blocks[index] for index in sorted(blocks))
    return {
        "decoder_channels": channels,
        "depth": len(channels),
        "attention_channels": _get_length(tensors, "center.top_conv"),
    }


def _infer_linknet(tensors: Tensors) -> dict[str, Any]:
    depth = _count(tensors, r"blocks\.")
    return {
        "decoder_channels": _get_length(tensors, f"blocks.{depth - 1}.block.2.0"),
        "depth": depth,
    }


def _infer_deeplab(tensors: Tensors) -> dict[str, Any]:
    aspp = "aspp.0" if any(key.startswith("decoder.aspp.0.") for key in tensors) else "aspp"
    return {
        "decoder_channels": _get_length(tensors, f"{aspp}.convs.0.0"),
        "aspp_separable": f"decoder.{aspp}.convs.1.0.0.weight" in tensors,
    }


def _infer_pspnet(tensors: Tensors) -> dict[str, Any]:
    return {"decoder_channels": _get_length(tensors, "conv.0"), "pool_sizes": POOL_SIZES}


def _infer_pan(tensors: Tensors) -> dict[str, Any]:
    return {
        "decoder_channels": _get_length(tensors, "fpa.mid.0.conv"),
        "depth": 2 + _count(tensors, "gau"),
    }


def _infer_upernet(tensors: Tensors) -> dict[str, Any]:
    return {
        "decoder_channels": _get_length(tensors, "fusion_block.0"),
        "depth": 1 + _count(tensors, r"feature_norms\."),
        "pool_sizes": POOL_SIZES,
    }


def _infer_segformer(tensors: Tensors) -> dict[str, Any]:
    return {
        "decoder_channels": _get_length(tensors, "fuse_stage.0"),
        "depth": _count(tensors, r"mlp_stage\."),
    }


class _SmpDeepLabV3(SmpDecoder):
    """DeepLab v3 of smp, also under the names of early versions."""

    def split(self, tensors: Tensors) -> Any:
        if any(key.startswith("decoder.0.convs.") for key in tensors):
            tensors = {
                next(
                    (n + k.removeprefix(o) for o, n in _OLD_DEEPLAB.items() if k.startswith(o)), k
                ): v
                for k, v in tensors.items()
            }
        return super().split(tensors)


_INTERPOLATION = {"decoder_interpolation": "interpolation"}
_RATES = {"decoder_atrous_rates": "atrous_rates"}
_DEPTH_HINT = (
    "; the file has no config.json: if its encoder_depth is not that of the head (smp's default is "
    "3), set the option depth"
)
UNETPLUSPLUS = SmpDecoder("U-Net++", "blocks.x_0_0.", _infer_blocks, _INTERPOLATION)
MANET = SmpDecoder("MA-Net", "center.top_conv.", _infer_blocks, _INTERPOLATION)
LINKNET = SmpDecoder("LinkNet", "blocks.0.block.", _infer_linknet)
DEEPLABV3 = _SmpDeepLabV3("DeepLab v3", "aspp.convs.", _infer_deeplab, _RATES)
DEEPLABV3PLUS = SmpDecoder("DeepLab v3+", "aspp.0.convs.", _infer_deeplab, _RATES)
PSPNET = SmpDecoder("PSPNet", "psp.blocks.0.pool.", _infer_pspnet, mismatch_hint=_DEPTH_HINT)
PAN = SmpDecoder("PAN", "fpa.", _infer_pan, _INTERPOLATION)
UPERNET = SmpDecoder("UPerNet", "psp.out_conv.", _infer_upernet)
SEGFORMER = SmpDecoder("SegFormer", "mlp_stage.", _infer_segformer)
