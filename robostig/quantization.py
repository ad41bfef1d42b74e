"""Quantization: a large dense layer with weights of 8 bits, which a single frame reads in a quarter of the time."""

from __future__ import annotations

import functools
import json
import math
from typing import Any, Dict, List, Mapping, Tuple

from robostig.backend import mx

__all__ = ["quantize_dense"]

LARGE = 1 << 20  # weights: as float32, more than a core's own caches hold
_BACKEND = "MKLDNN"  # oneDNN's name when MXNet 1.9 was written
_TINY = 1e-30  # what a row of zeros is divided by
_Input = List[int]  # the number of a node, which of its outputs, and a version


def quantize_dense(symbol: Any, parameters: Mapping[str, Any]) -> Any:
    """Let dense layers of a million weights and more compute with 8 bits a number.

    Each row of the input is divided by its largest magnitude, and the product multiplied by that, so that nothing need
    be known of the input beforehand and no frame's answer depends on the others of its batch. Weights are scaled a unit
    at a time, by oneDNN, when the network answers first. Biases and all other layers stay float32.

    Parameters
    ----------
    symbol
        The graph, :class:`mxnet.sym.Symbol`, for float32 on a CPU, before any of it is fused.
    parameters
        Name to value (NDArray); they stay as they are.

    Returns
    -------
    mxnet.sym.Symbol
        The graph with the same parameters, for inference only.

    Raises
    ------
    ValueError
        If MXNet was built without oneDNN, the processor cannot add such products exactly, or no layer is that large.
    """
    obstacle = _find_obstacle()
    if obstacle:
        raise ValueError(f"int8 cannot be had: {obstacle}. Use float32")
    quantized, largest = _replace_dense(symbol, parameters, LARGE)
    if largest < LARGE:
        raise ValueError(
            f"the largest dense layer has {largest:,} weights; 8 bits pay from {LARGE:,} on. Use float32 for this model"
        )
    return quantized


@functools.lru_cache(maxsize=None)
def _find_obstacle() -> str:
    """Return why a dense layer cannot compute with 8 bits here, found by trying; empty if it can."""
    if not mx.runtime.Features().is_enabled(_BACKEND):
        return "this MXNet was built without oneDNN"
    inputs, units = 64, 16
    data, weights = mx.sym.var("data"), {"weight": mx.nd.ones((units, inputs))}
    dense = mx.sym.FullyConnected(data, mx.sym.var("weight"), num_hidden=units, no_bias=True, name="try")
    net = mx.gluon.SymbolBlock(_replace_dense(dense, weights, at_least=1)[0], data)
    net.collect_params().load_dict(weights, ctx=mx.cpu())
    answer = net(mx.nd.ones((1, inputs)))
    # Without the instructions for it (VNNI), two products are added in 16 bits, and the largest overflow.
    is_exact = abs(float(answer.max().asscalar()) / inputs - 1.0) < 0.01
    return "" if is_exact else "this processor has no VNNI, without which sums of 8-bit products overflow"


def _replace_dense(symbol: Any, parameters: Mapping[str, Any], at_least: int) -> Tuple[Any, int]:
    """Return the graph with dense layers of so many weights replaced, and how many the largest of all has."""
    graph = json.loads(symbol.tojson())
    nodes: List[Dict[str, Any]] = []
    places: List[int] = []  # where each of the graph's nodes, or what it has become, is among those
    largest = 0
    for node in graph["nodes"]:
        inputs = [[places[number], *rest] for number, *rest in node["inputs"]]
        name = nodes[inputs[1][0]]["name"] if _is_dense(node) else ""
        size = math.prod(parameters[name].shape) if name in parameters else 0
        largest = max(largest, size)
        if size >= at_least:
            _add_quantized(nodes, node, inputs)
        else:
            nodes.append({**node, "inputs": inputs})
        places.append(len(nodes) - 1)
    graph["nodes"], graph["heads"] = nodes, [[places[number], *rest] for number, *rest in graph["heads"]]
    graph["arg_nodes"] = [number for number, node in enumerate(nodes) if node["op"] == "null"]
    return mx.sym.load_json(json.dumps(graph)), largest


def _is_dense(node: Mapping[str, Any]) -> bool:
    """Say whether a node is a dense layer of all that belongs to a frame."""
    return node["op"] == "FullyConnected" and node["attrs"].get("flatten", "True") in ("True", "1")


def _add_quantized(nodes: List[Dict[str, Any]], dense: Mapping[str, Any], inputs: List[_Input]) -> None:
    """Append the nodes that take the place of a dense layer; the last gives its output."""

    def add(operator: str, role: str, *takes: _Input, **attributes: str) -> _Input:
        nodes.append(
            {"op": operator, "name": f"{dense['name']}{role}", "attrs": attributes, "inputs": [list(x) for x in takes]}
        )
        return [len(nodes) - 1, 0, 0]

    data, weight, *bias = inputs
    rows = add("Flatten", "_rows", data)
    peak = add("max", "_peak", add("abs", "_magnitude", rows), axis="1", keepdims="True")
    peak = add("_plus_scalar", "_divisor", peak, scalar=repr(_TINY))
    scaled = add("broadcast_div", "_scaled", rows, peak)
    number, *_ = add(
        "_contrib_quantize_v2", "_8_bits", scaled, out_type="int8", min_calib_range="-1.0", max_calib_range="1.0"
    )
    product = add(
        "_sg_mkldnn_fully_connected",
        "_product",
        *([number, 0, 0], weight, [number, 1, 0], [number, 2, 0]),  # with the least and the largest value it may have
        quantized="True",
        channel_wise_quantize="True",
        enable_float_output="True",
    )
    units = int(dense["attrs"]["num_hidden"])
    inner = mx.sym.FullyConnected(mx.sym.var("data"), mx.sym.var("weight"), num_hidden=units, no_bias=True)
    nodes[-1]["subgraphs"] = [json.loads(inner.tojson())]
    output = add("broadcast_mul", "_unscaled", product, peak)
    if bias:
        add("broadcast_add", "", output, *bias)
