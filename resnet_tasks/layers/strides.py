"""Check of the strides of a chain of levels."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from resnet_tasks.errors import StrideError
from resnet_tasks.structures.feature_spec import FeatureSpec


def check_strides(
    specs: Mapping[str, FeatureSpec], reader: str, *, allowed_ratios: tuple[int, ...] = (2,)
) -> None:
    """Reject levels whose strides do not increase by an allowed ratio.

    Args:
        specs: Channels and stride of the levels, finest first.
        reader: Name of the module that reads the levels, for error messages.
        allowed_ratios: Allowed ratios of a level's stride to that of the next finer level.

    Raises:
        StrideError: If the ratio of two strides is not allowed.
    """
    for (finer, fine), (level, coarse) in pairwise(specs.items()):
        allowed = [fine.stride * ratio for ratio in allowed_ratios]
        if coarse.stride not in allowed:
            level_strides = ", ".join(f"{name} {spec.stride}" for name, spec in specs.items())
            rule = "double" if allowed_ratios == (2,) else "stay or double"
            raise StrideError(
                f"the strides of {reader} must {rule} from level to level: after {finer} of stride "
                f"{fine.stride}, {level} may have {' or '.join(map(str, allowed))}, got "
                f"{level_strides}; "
                "set backbone.output_stride to 32, or use another head"
            )
