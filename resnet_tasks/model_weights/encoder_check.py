"""Check that a backbone computes the same as the encoder that a model's configuration states."""

from __future__ import annotations

from resnet_tasks.backbone.family import CUSTOM, list_all_backbones
from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.backbone.weights_request import WeightsRequest
from resnet_tasks.errors import WeightsError
from resnet_tasks.heads.foreign_weights import ForeignEncoder


def check_encoder(backbone: ResNet, encoder: ForeignEncoder, request: WeightsRequest) -> None:
    """Require a backbone of the encoder's variant, with its stride and dilation.

    Strides and dilations are not visible in the tensors, so that they would load in silence.

    Args:
        backbone: Backbone that is filled.
        encoder: Encoder that `config.json` states.
        request: Source of the weights, for error messages.

    Raises:
        WeightsError: If the backbone differs; the message names the keys to set.
    """
    start = f"{request}: config.json names the encoder {encoder.name!r}"
    if encoder.variant not in list_all_backbones():
        raise WeightsError(f"{start}, which is not a ResNet that this package supports")
    if encoder.problem:
        raise WeightsError(f"{start}, but {encoder.problem}; choose another model")
    settings = _find_settings(backbone, encoder)
    if settings:
        raise WeightsError(
            f"{start} at output stride {encoder.output_stride}, which is another network than the "
            f"recipe's backbone; set {' and '.join(settings)}"
        )


def _find_settings(backbone: ResNet, encoder: ForeignEncoder) -> list[str]:
    """Return the settings `KEY=VALUE` that make the backbone the encoder."""
    settings = []
    if backbone.name not in (encoder.variant, CUSTOM):
        settings.append(f"backbone.name={encoder.variant}")
    # Levels that the model does not read may have any stride.
    nominal = 2**encoder.depth
    stride = min(encoder.output_stride, nominal)
    if backbone.specs[f"C{encoder.depth}"].stride != stride:
        settings.append(f"backbone.output_stride={encoder.output_stride}")
    if stride < nominal and backbone.contract_dilation != encoder.contract_dilation:
        settings.append(f"backbone.contract_dilation={str(encoder.contract_dilation).lower()}")
    return settings
