"""Narrow forms of the heads on decoders of smp, for tests."""

from __future__ import annotations

from typing import Any

SMALL_DECODERS: dict[str, dict[str, Any]] = {
    "deeplabv3": {"decoder_channels": 16},
    "deeplabv3plus": {"decoder_channels": 16},
    "linknet": {"decoder_channels": 8},
    "manet": {"decoder_channels": [16, 16, 8, 8, 8], "attention_channels": 8},
    "pan": {"decoder_channels": 8},
    "pspnet": {"decoder_channels": 16},
    "segformer": {"decoder_channels": 16},
    "unetplusplus": {"decoder_channels": [16, 16, 8, 8, 8]},
    "upernet": {"decoder_channels": 16},
}
