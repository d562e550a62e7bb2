"""Adaptive pooling equals torch's, and its trace follows the size of the map."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from resnet_tasks.layers.segmentation.adaptive_pooling import AdaptiveAveragePool


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_the_trace_pools_maps_of_any_size_as_torch_does(size: int) -> None:
    layer = AdaptiveAveragePool(size)
    traced = torch.jit.trace(layer, torch.randn(1, 2, 8, 9), check_trace=False)
    for height, width in ((8, 9), (1, 1), (2, 5), (17, 12), (6, 6)):
        values = torch.randn(3, 2, height, width)
        expected = F.adaptive_avg_pool2d(values, size)
        assert torch.equal(layer(values), expected)
        torch.testing.assert_close(traced(values), expected)
