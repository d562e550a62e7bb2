from __future__ import annotations

import numpy as np

from resnet_tasks.evaluation.protocols.kitti_average_precision import choose_recall_thresholds


def test_thresholds_skip_what_lies_far_from_the_next_recall_point() -> None:
    """With 200 objects every fifth score is nearest to a point of 1/40."""
    scores = np.linspace(1, 0, 200)
    thresholds = choose_recall_thresholds(scores, 200)
    indices = [int(np.flatnonzero(scores == score)[0]) for score in thresholds]
    assert indices[:4] == [0, 4, 9, 14]
    assert len(thresholds) == 41
    assert choose_recall_thresholds(np.zeros(0), 5).size == 0
