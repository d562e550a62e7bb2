"""The time left counts steps and evaluations as they were measured."""

from __future__ import annotations

import pytest

from resnet_tasks.training.logging.time_left import WINDOW, TimeLeft


def test_steps_and_evaluations_count_without_the_slow_first_step() -> None:
    time_left = TimeLeft()
    time_left.add_step(60.0)
    assert time_left.estimate(10, 2) is None
    time_left.add_step(1.0)
    time_left.add_step(2.0)
    assert time_left.estimate(10, 2) == pytest.approx(15)
    time_left.set_evaluation(30.0)
    assert time_left.estimate(10, 2) == pytest.approx(75)
    assert time_left.estimate(0, 0) == 0


def test_a_change_of_speed_is_noticed() -> None:
    time_left = TimeLeft()
    for _ in range(1000):
        time_left.add_step(1.0)
    for _ in range(WINDOW):
        time_left.add_step(3.0)
    assert time_left.estimate(100, 0) == pytest.approx(300)
