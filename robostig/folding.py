"""Folding: what a network's graph need not compute for every frame is computed once, when the network is loaded."""

from __future__ import annotations

import json
from typing import Any, Callable, Dict, List, Mapping, Tuple

import numpy as np

from robostig.backend import mx

__all__ = ["fold_constants", "fold_scaling"]

# What a scalar operator makes of scale and offset, if its input is scale * x + offset.
_SCALAR_OPERATORS: Dict[str, Callable[[float, float, float], Tuple[float, float]]] = {
    "_mul_scalar": lambda scale, offset, scalar: (scale * scalar, offset * scalar),
    "_div_scalar": lambda scale, offset, scalar: (scale / scalar, offset / scalar),
    "_plus_scalar": lambda scale, offset, scalar: (scale, offset + scalar),
    "_minus_scalar": lambda scale, offset, scalar: (scale, offset - scalar),
}


def fold_constants(symbol: Any, parameters: Mapping[str, Any]) -> Tuple[Any, Dict[str, Any]]:
    """Replace what follows from the parameters alone by parameters.

    Parameters
    ----------
    symbol
        The graph, :class:`mxnet.sym.Symbol`.
    parameters
        Name to value (NDArray on the CPU). Variables of the graph that are not in here count as its inputs.

    Returns
    -------
    tuple
        The graph without those operators, and its parameters. The answers are the same to the bit.
    """
    graph = json.loads(symbol.tojson())
    nodes = graph["nodes"]
    is_constant = []
    for node in nodes:
        if node["op"] == "null":
            is_constant.append(node["name"] in parameters)
        else:  # an operator without inputs may draw at random
            is_constant.append(bool(node["inputs"]) and all(is_constant[number] for number, *_ in node["inputs"]))
    needed = {number for node, fixed in zip(nodes, is_constant) if not fixed for number, *_ in node["inputs"]}
    folded = sorted(number for number in needed if is_constant[number] and nodes[number]["op"] != "null")
    if not folded:
        return symbol, dict(parameters)
    constants = mx.sym.load_json(json.dumps({**graph, "heads": [[number, 0, 0] for number in folded]}))
    inputs = constants.list_inputs()
    values = mx.gluon.SymbolBlock(constants, [mx.sym.var(name) for name in inputs])(*(parameters[n] for n in inputs))
    known = dict(parameters)
    for number, value in zip(folded, values if len(folded) > 1 else [values]):
        name = f"{nodes[number]['name']}_folded"
        nodes[number] = {"op": "null", "name": name, "inputs": []}
        known[name] = value
    return _rebuild(graph, known)


def fold_scaling(symbol: Any, parameters: Mapping[str, Any]) -> Tuple[Any, Dict[str, Any]]:
    """Let convolutions scale their input, where the graph does so with scalars before them.

    A convolution of ``scale * x + offset`` is one of ``x`` with other parameters, if nothing is padded.

    Parameters
    ----------
    symbol, parameters
        As for :func:`fold_constants`.

    Returns
    -------
    tuple
        The graph without those scalar operators, and its parameters. The answers are the same to within rounding.
    """
    graph = json.loads(symbol.tojson())
    nodes, known = graph["nodes"], dict(parameters)
    uses = [number for node in nodes for number, *_ in node["inputs"]]
    for node in nodes:
        if not _is_plain_convolution(node):
            continue
        (source, *_), *rest = node["inputs"]
        weight, bias = (nodes[number]["name"] for number, *_ in rest)
        if not {weight, bias} <= known.keys() or any(uses.count(number) > 1 for number, *_ in rest):
            continue
        chain: List[Tuple[str, float]] = []
        while nodes[source]["op"] in _SCALAR_OPERATORS:
            chain.insert(0, (nodes[source]["op"], float(nodes[source]["attrs"]["scalar"])))
            source = nodes[source]["inputs"][0][0]
        scale, offset = 1.0, 0.0
        for operator, scalar in chain:
            scale, offset = _SCALAR_OPERATORS[operator](scale, offset, scalar)
        if chain:
            values = known[weight].asnumpy().astype(np.float64)
            shifted = known[bias].asnumpy() + offset * values.sum(axis=(1, 2, 3))
            known[weight], known[bias] = mx.nd.array(scale * values), mx.nd.array(shifted)
            node["inputs"][0] = [source, 0, 0]
    return _rebuild(graph, known)


def _is_plain_convolution(node: Mapping[str, Any]) -> bool:
    """Say whether a node is a convolution in two dimensions with a bias and without padding."""
    attributes = node.get("attrs", {})
    return (
        node["op"] == "Convolution"
        and len(node["inputs"]) == 3
        and attributes.get("pad", "(0, 0)") in ("(0, 0)", "[0, 0]", "()", "[]")
        and attributes.get("kernel", "").count(",") == 1
    )


def _rebuild(graph: Dict[str, Any], known: Mapping[str, Any]) -> Tuple[Any, Dict[str, Any]]:
    """Return a changed graph as a symbol, and those of the known parameters that it still uses."""
    graph["arg_nodes"] = [number for number, node in enumerate(graph["nodes"]) if node["op"] == "null"]
    symbol = mx.sym.load_json(json.dumps(graph))
    used = symbol.list_inputs()
    return symbol, {name: value for name, value in known.items() if name in used}
