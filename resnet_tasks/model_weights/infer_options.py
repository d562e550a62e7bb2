"""Options of a head that a file needs, and the sentence that suggests them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resnet_tasks.heads.base import Head
from resnet_tasks.heads.foreign_weights import ForeignModel


def find_differing_options(
    head: Head, file: ForeignModel, configuration: Mapping[str, Any]
) -> dict[str, Any]:
    """Return options whose value differs from the one that the file needs: name -> file's value.

    Args:
        head: Head that is filled.
        file: Whole model.
        configuration: Content of its `config.json`; empty if there is none.
    """
    file_options = {
        **head.foreign_weights.infer_options(head, file.head),
        **head.foreign_weights.read_configured_options(configuration),
    }
    own = head.options.model_dump()
    if (shared := _get_shared_channels(head)) is not None:
        own["pyramid_channels"] = shared
    return {k: v for k, v in file_options.items() if v is not None and own[k] != v}


def _get_shared_channels(head: Head) -> int | None:
    """Return the channels of the shared pyramid that a head reads; None if it reads none."""
    channels = [spec.channels for level, spec in head.specs.items() if level.startswith("P")]
    return channels[0] if channels else None


def suggest_options(
    head: Head, file: ForeignModel, configuration: Mapping[str, Any], name: str
) -> str:
    """Suggest the settings that make the file fit, if they can be inferred."""
    wrong = find_differing_options(head, file, configuration)
    if not wrong:
        return (
            f"{file.kind} in this file has an architecture that the head does not "
            f"support{head.foreign_weights.mismatch_hint}"
        )
    settings = {f"heads.{name}.options.{key}": value for key, value in wrong.items()}
    if _get_shared_channels(head) is not None:
        if "pyramid_channels" in wrong:
            del settings[f"heads.{name}.options.pyramid_channels"]
            settings["pyramid.channels"] = wrong["pyramid_channels"]
        if "extra_levels" in wrong:
            settings["pyramid.extra_levels"] = wrong["extra_levels"]
    texts = (f"{key}={_format_value(value)}" for key, value in settings.items())
    return f"set {' and '.join(texts)}"


def _format_value(value: object) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)
