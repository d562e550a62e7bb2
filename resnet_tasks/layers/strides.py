"""Which strides a chain of levels may have."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

from resnet_tasks.errors import HeadError
from resnet_tasks.structures.feature_spec import FeatureSpec


def check_strides(
    specs: Mapping[str, FeatureSpec], who: str, *, allowed_ratios: tuple[int, ...] = (2,)
) -> None:
    """Refuses levels whose strides do not follow one another as their reader needs it.

    Args:
        specs: The levels, finest first.
        who: Whose levels they are, for messages.
        allowed_ratios: What the stride of a level may be, in strides of the next finer one.

    Raises:
        HeadError: If a stride is another.
    """
    for (finer, fine), (level, coarse) in pairwise(specs.items()):
        allowed = [fine.stride * ratio for ratio in allowed_ratios]
        if coarse.stride not in allowed:
            level_strides = ", ".join(f"{name} {spec.stride}" for name, spec in specs.items())
            rule = "double" if allowed_ratios == (2,) else "stay or double"
            raise HeadError(
                f"the strides of {who} must {rule} from level to level: after {finer} of stride "
                f"{fine.stride}, {level} may have {' or '.join(map(str, allowed))}, got "
                f"{level_strides}; "
                "set backbone.output_stride to 32, or use another head"
            )
