"""The gradient of a large dense layer as its factors, which is what hosts that train together exchange in its place.

A dense layer's gradient is a product of two matrices with a row for each frame of the batch: what the layer was given,
and what the loss asks of its answers. Where the layer is large and the batch is not, they are many times smaller.

References
----------
Xie et al., "Distributed Machine Learning via Sufficient Factor Broadcasting", 2015, arXiv:1511.08486.
"""

from __future__ import annotations

import json
import math
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from robostig.backend import mx, view_memory
from robostig.tracing import make_block, trace

__all__ = ["FactoredDense", "factor_largest_dense"]

_WORTHWHILE = 2  # times as many bytes must travel without
_LEAST = 250_001  # weights: fewer travel with all other small gradients
_ANSWERS = "answers of the layer that is cut out"  # no parameter has this name


class FactoredDense:
    """A network, cut at a dense layer whose weight has its gradient only when the factors of all hosts are there.

    A step is: call it for each device's frames while autograd records, the backward pass, :meth:`collect` for each
    device, :meth:`read` and the other hosts' rows written there, :meth:`write_gradient`.

    Parameters
    ----------
    below, above
        The network's parts: frames -> what the layer is given, and what it answers -> steering.
    weight, bias
        The layer's parameters: (units, in_units), and (units,) or None.
    batch_size
        Frames of a whole batch, those of all hosts.

    Attributes
    ----------
    size
        How many numbers the factors of a whole batch are.
    """

    def __init__(
        self,
        below: mx.gluon.HybridBlock,
        above: mx.gluon.HybridBlock,
        weight: mx.gluon.Parameter,
        bias: Optional[mx.gluon.Parameter],
        batch_size: int,
    ) -> None:
        self.below, self.above, self.weight, self.bias = below, above, weight, bias
        units, in_units = weight.shape
        self.size = batch_size * (units + in_units)
        # Of all frames of the whole batch: what the layer was given, and the slopes of what it answered.
        self._factors = [mx.nd.zeros((batch_size, size), ctx=mx.cpu()) for size in (in_units, units)]
        self._passed: Dict[Any, Tuple[mx.nd.NDArray, mx.nd.NDArray]] = {}

    def __call__(self, frames: mx.nd.NDArray) -> mx.nd.NDArray:
        """Return what the network answers to frames; for use while autograd records."""
        context = frames.context
        inputs, units = self.below(frames), self.weight.shape[0]
        offsets = mx.nd.zeros((len(frames), units), ctx=context)
        if self.bias is not None:
            offsets[:] = self.bias.data(context).detach()
        offsets.attach_grad()  # the gradient by what is added to the answers is the one by the answers
        weight = self.weight.data(context).detach()
        self._passed[context] = inputs, offsets
        return self.above(mx.nd.FullyConnected(inputs, weight, num_hidden=units, no_bias=True) + offsets)

    def collect(self, context: mx.Context, start: int) -> None:
        """Take in what the backward pass has left on a device; the bias has its gradient of these frames then.

        Parameters
        ----------
        context
            The device.
        start
            Which frame of the whole batch was its first.
        """
        inputs, offsets = self._passed.pop(context)
        for rows, own in zip(self._factors, (inputs.detach(), offsets.grad)):
            rows[start : start + len(own)] = own.reshape((len(own), -1))
        if self.bias is not None:
            offsets.grad.sum(axis=0).copyto(self.bias.grad(context))
            self.bias.data(context)._fresh_grad = True  # to the trainer: it is of this step

    def read(self) -> List[np.ndarray]:
        """Return the factors: the memory itself, of (batch_size, in_units) and of (batch_size, units) float32.

        Of their rows, those of this host's frames have been collected; all others are the caller's to write, at once.
        """
        for rows in self._factors:
            rows.wait_to_read()
        return [view_memory(rows).reshape(rows.shape) for rows in self._factors]

    def write_gradient(self) -> None:
        """Give the weight its gradient on each device, by the factors of all frames."""
        for context in self.weight.list_ctx():
            inputs, slopes = (rows.as_in_context(context) for rows in self._factors)
            with mx.autograd.train_mode():  # for inference, oneDNN would lay out what it takes for a weight
                # inputs and slopes as weight and data: on CPUs, three times as quick as MXNet's dot.
                mx.nd.FullyConnected(
                    slopes.T, inputs.T, num_hidden=inputs.shape[1], no_bias=True, out=self.weight.grad(context)
                )
            self.weight.data(context)._fresh_grad = True


def factor_largest_dense(
    net: mx.gluon.HybridBlock, batch_size: int, shape: Tuple[int, int, int]
) -> Optional[FactoredDense]:
    """Cut a network at its largest dense layer, if the factors of its gradient are less to exchange.

    Parameters
    ----------
    net
        With parameters of known shapes. They are shared with what is returned.
    batch_size
        As for :class:`FactoredDense`.
    shape
        A frame's: (channels, height, width).

    Returns
    -------
    FactoredDense
        Or None: where no dense layer that learns is large enough, or the largest is one of several ways through the
        network, shares its parameters with another, or sees something else than one row a frame.
    """
    parameters, symbol = net.collect_params(), trace(net)
    if symbol is None:
        return None
    graph = json.loads(symbol.tojson())
    nodes = graph["nodes"]
    sizes = {number: _measure(node, nodes, parameters) for number, node in enumerate(nodes)}
    largest = nodes[max(sizes, key=lambda number: math.prod(sizes[number]))]
    units, in_units = _measure(largest, nodes, parameters)
    if not units or units * in_units < max(_LEAST, _WORTHWHILE * batch_size * (units + in_units)):
        return None
    source, *rest = largest["inputs"]
    if nodes[source[0]]["op"] == "null":  # MXNet hands over no input as it is
        return None
    names = [nodes[number]["name"] for number, *_ in rest]
    below = mx.sym.load_json(json.dumps({**graph, "heads": [source]}))
    largest.update(op="null", name=_ANSWERS, inputs=[])
    above = mx.sym.load_json(json.dumps(graph))
    inputs, others = set(below.list_inputs()), set(above.list_inputs())
    if "data" not in inputs or _ANSWERS not in others or inputs & others or {*names} & (inputs | others):
        return None
    given = {name: parameters[name].shape for name in below.list_arguments() if name in parameters}
    sizes_below = below.infer_shape(data=(batch_size, *shape), **given)[1]
    if not sizes_below or sizes_below[0][0] != batch_size or math.prod(sizes_below[0]) != batch_size * in_units:
        return None
    parts = make_block(below, "data", parameters), make_block(above, _ANSWERS, parameters)
    if parts[0] is None or parts[1] is None:
        return None
    weight, bias = parameters[names[0]], parameters[names[1]] if names[1:] else None
    return FactoredDense(parts[0], parts[1], weight, bias, batch_size)


def _measure(node: Dict[str, Any], nodes: List[Dict[str, Any]], parameters: Any) -> Tuple[int, int]:
    """Return units and in_units of a dense layer of all that belongs to a frame; none of what is no such layer.

    Nor of one whose parameters are computed, or do not learn.
    """
    if node["op"] != "FullyConnected" or node["attrs"].get("flatten", "True") not in ("True", "1"):
        return 0, 0
    names = [nodes[number]["name"] for number, *_ in node["inputs"][1:]]
    if any(name not in parameters or parameters[name].grad_req == "null" for name in names):
        return 0, 0
    units, in_units = parameters[names[0]].shape
    return units, in_units
