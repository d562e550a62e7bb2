"""Functions on arrays give the same numbers for numpy arrays and for tensors."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import resnet_tasks.structures.tensors  # noqa: F401  # registers the functions for tensors
from resnet_tasks.structures.arrays import (
    argsort_descending,
    array_like,
    as_array,
    as_float32,
    logit,
    sigmoid,
    softmax,
    where,
)
from resnet_tasks.structures.resizing import flip_and_resize

LOGITS = np.array([[-90.0, 0.0, 3.0], [1.0, 1.0, 1.0]], np.float32)


def test_tensors_and_lists_become_arrays() -> None:
    tensor = torch.tensor([[1.5, 2.0]], requires_grad=True)
    assert np.array_equal(as_array(tensor), [[1.5, 2.0]])
    assert as_array(tensor).dtype == np.float32
    assert np.array_equal(as_array([1, 2]), [1, 2])


@pytest.mark.parametrize(
    ("function", "values", "expected"),
    [
        (lambda x: softmax(x, 1)[1], LOGITS, [1 / 3] * 3),
        # exp(-90) is below the smallest float32 beside 1; 1 / (1 + e**-3) is 0.952574.
        (lambda x: softmax(x, 1)[0], LOGITS, [0, 0.0474259, 0.9525741]),
        (lambda x: sigmoid(x)[0], LOGITS, [8.194013e-40, 0.5, 0.9525741]),
        (sigmoid, np.array([900.0, -900.0], np.float32), [1, 0]),
        (logit, np.array([0.5, 0.9, 1e-7], np.float32), [0, 2.1972246, -16.118095]),
        (argsort_descending, np.array([0.2, 0.9, 0.2, 0.5], np.float32), [1, 3, 0, 2]),
        (lambda x: where(x > 0, x, -x), np.array([-2.0, 3.0], np.float32), [2, 3]),
        (as_float32, np.array([1, 2]), [1, 2]),
        # Two pixels to four, centers at half-integers, after a flip of the columns.
        (
            lambda x: flip_and_resize(x, (1,), (1, 4))[0, 0],
            np.array([[[0.0, 4.0]]]),
            [4, 3, 1, 0],
        ),
    ],
)
def test_arrays_and_tensors_give_the_same(
    function: Callable[[Any], Any], values: Any, expected: list[float]
) -> None:
    array, tensor = function(values), function(torch.from_numpy(values))
    assert isinstance(array, np.ndarray)
    assert isinstance(tensor, torch.Tensor)
    assert array == pytest.approx(expected, rel=1e-5)
    assert tensor.numpy() == pytest.approx(expected, rel=1e-5)
    assert as_array(tensor).dtype == array.dtype


def test_array_like_takes_the_type_of_another() -> None:
    assert torch.equal(array_like(torch.zeros(1), np.array([1, 2])), torch.tensor([1.0, 2.0]))
    array = array_like(np.zeros(1, np.float32), [1, 2])
    assert array.dtype == np.float32
    assert array.tolist() == [1, 2]


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match="values of type list are neither a numpy array nor a"):
        softmax([1.0, 2.0], 0)


def test_tasks_run_without_torch() -> None:
    code = (
        "import sys, resnet_tasks.tasks.built_in; "
        "assert 'torch' not in sys.modules and 'pydantic' not in sys.modules"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (process.returncode, process.stderr) == (0, "")
