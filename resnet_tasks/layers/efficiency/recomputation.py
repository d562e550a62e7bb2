"""Recomputation, in the backward, of layer inputs that are cheap to compute."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from resnet_tasks.layers.tracing import is_traced


def apply_with_recomputation(
    layer: Callable[[Tensor], Tensor], make: Callable[..., Tensor], *inputs: Tensor
) -> Tensor:
    """Compute `layer(make(*inputs))`, saving `inputs` for the backward instead of `make`'s result.

    This pays off if other layers save the inputs anyway and `make` is a copy, such as an upsampling
    or a concatenation. It saves the memory of that copy until the backward, which computes it
    again. Values and gradients are identical to the last bit.

    Args:
        layer: Function that is called once. If it saves its input for the backward, the input is
            recomputed there; other tensors that it saves are kept.
        make: Function of `inputs` alone.
        inputs: Tensors that must not be changed in place before the backward.

    Raises:
        RuntimeError: If an input was changed in place before the backward.
    """
    layer_input = make(*inputs)
    if not torch.is_grad_enabled() or is_traced():
        return layer(layer_input)
    address, shape, versions = (
        layer_input.data_ptr(),
        layer_input.shape,
        [tensor._version for tensor in inputs],
    )
    saved_inputs = tuple(tensor.detach() for tensor in inputs)

    # A saved tensor is recognized as the layer's input by its memory address, shape and dtype,
    # because the hook may receive another tensor object than `layer_input`.
    def pack(tensor: Tensor) -> Tensor | None:
        same = (
            tensor.data_ptr() == address and tensor.shape == shape and tensor.dtype == input_dtype
        )
        return None if same else tensor

    def unpack(packed: Tensor | None) -> Tensor:
        if packed is not None:
            return packed
        if [tensor._version for tensor in saved_inputs] != versions:
            raise RuntimeError("an input of a layer was changed in place before its backward")
        with torch.no_grad():
            return make(*saved_inputs)

    input_dtype = layer_input.dtype
    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return layer(layer_input)
