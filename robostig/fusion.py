"""Fusion: a convolution or dense layer and the activation after it in one pass over the memory."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, Dict, List

from robostig.backend import mx

__all__ = ["fuse_activations"]

_BACKEND = "MKLDNN"  # oneDNN's name when MXNet 1.9 was written
_MOVABLE = {"Activation", "LeakyReLU"}  # operators that, with a single input, see each number by itself


def fuse_activations(symbol: Any) -> Any:
    """Let oneDNN compute activations within the layers before them.

    MXNet's own fusion leaves ELU out after convolutions, though what it makes of the others computes ELU as well. So
    it is shown leaky ReLUs in their place, of the same slope, which become ELUs again where they have ended up. Nor
    does it look beyond flattening, so that an activation after that is moved before it.

    Parameters
    ----------
    symbol
        The graph, :class:`mxnet.sym.Symbol`, for float32 on a CPU.

    Returns
    -------
    mxnet.sym.Symbol
        The graph with the same parameters and the same answers, for inference only: what is fused has no gradient. The
        graph itself where MXNet was built without oneDNN.
    """
    if not mx.runtime.Features().is_enabled(_BACKEND):
        return symbol
    graph = json.loads(symbol.tojson())
    _move_activations(graph)
    elus = {node["name"] for node in graph["nodes"] if _is_leaky_relu(node) and node["attrs"]["act_type"] == "elu"}
    _set_kinds(graph, dict.fromkeys(elus, "leaky"))
    fused = json.loads(mx.sym.load_json(json.dumps(graph)).get_backend_symbol(_BACKEND).tojson())
    _set_kinds(fused, dict.fromkeys(elus, "elu"))
    return mx.sym.load_json(json.dumps(fused))


def _move_activations(graph: Dict[str, Any]) -> None:
    """Let activations precede flattening, and dropout, idle here, where nobody else sees what is between."""
    nodes = graph["nodes"]
    uses = Counter(number for node in [*nodes, {"inputs": graph["heads"]}] for number, *_ in node["inputs"])
    for last, node in enumerate(nodes):
        if node["op"] not in _MOVABLE or len(node["inputs"]) > 1:
            continue
        places = [last]
        before = node["inputs"][0][0]
        while _keeps_numbers(nodes[before]) and uses[before] == 1:
            places.insert(0, before)
            before = nodes[before]["inputs"][0][0]
        # The wires stay: each place gets the operator of the one before it, and the first the activation.
        moved = [{**nodes[source], "inputs": nodes[place]["inputs"]} for source, place in zip([last, *places], places)]
        for place, operator in zip(places, moved):
            nodes[place] = operator


def _keeps_numbers(node: Dict[str, Any]) -> bool:
    """Say whether a node hands over every number as it is, in inference."""
    return node["op"] == "Flatten" or (node["op"] == "Dropout" and node.get("attrs", {}).get("mode") != "always")


def _is_leaky_relu(node: Dict[str, Any]) -> bool:
    """Say whether a node is MXNet's operator for ReLU's relatives, ELU among them."""
    return bool(node["op"] == "LeakyReLU")


def _set_kinds(graph: Dict[str, Any], kinds: Dict[str, str]) -> None:
    """Change which of ReLU's relatives the named nodes are, in a graph and in those within its nodes."""
    for node in graph["nodes"]:
        if _is_leaky_relu(node) and node["name"] in kinds:
            node["attrs"]["act_type"] = kinds[node["name"]]
        inner: List[Dict[str, Any]] = node.get("subgraphs", [])
        for each in inner:
            _set_kinds(each, kinds)
