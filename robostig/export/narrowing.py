"""Narrowing: channels that MXNet is quicker with, and that are zero whatever it sees, are left out of a graph."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Mapping, Optional, Tuple

import numpy as np

from robostig.backend import mx

__all__ = ["drop_zero_channels"]

# Operators, and their kinds, that make zero of zero, channel by channel.
_ZERO_KEEPERS = {"Activation": ("relu", "softsign", "tanh"), "Dropout": (None,), "LeakyReLU": (None, "elu", "leaky")}

Graph = Mapping[str, Any]
Names = Mapping[str, Any]


def drop_zero_channels(symbol: Any, parameters: Mapping[str, Any]) -> Tuple[Any, Dict[str, Any]]:
    """Leave out channels that are always zero, where they go from convolution to convolution.

    They are those by which :class:`~robostig.convolution.AlignedConv2D` rounds up.

    Parameters
    ----------
    symbol
        The graph, :class:`mxnet.sym.Symbol`.
    parameters
        Name to value (NDArray on the CPU).

    Returns
    -------
    tuple
        The graph of narrower convolutions, and its parameters. The answers are the same to within rounding.
    """
    graph, known = json.loads(symbol.tojson()), dict(parameters)
    nodes = graph["nodes"]
    for number, node in enumerate(nodes):
        readers = _find_convolutions_after(number, graph, known) if _is_convolution(number, graph, known) else None
        if not readers:
            continue
        own = [nodes[source]["name"] for source, *_ in node["inputs"][1:]]  # weight, and bias if it has one
        is_used = np.any([known[name].asnumpy().reshape(known[name].shape[0], -1).any(1) for name in own], 0)
        if is_used.all() or not is_used.any():
            continue
        for name in own:
            known[name] = mx.nd.array(known[name].asnumpy()[is_used])
        node["attrs"]["num_filter"] = str(is_used.sum())
        for reader in readers:
            weight = nodes[nodes[reader]["inputs"][1][0]]["name"]
            known[weight] = mx.nd.array(known[weight].asnumpy()[:, is_used])
    return mx.sym.load_json(json.dumps(graph)), known


def _find_convolutions_after(number: int, graph: Graph, known: Names) -> Optional[List[int]]:
    """Return the convolutions that a node's channels go to as they are; None if they go anywhere else, too."""
    if number in (head for head, *_ in graph["heads"]):
        return None
    found: List[int] = []
    for reader, node in enumerate(graph["nodes"]):
        places = [place for place, (source, *_) in enumerate(node["inputs"]) if source == number]
        further: Optional[List[int]] = []
        if places == [0] and _is_convolution(reader, graph, known):
            further = [reader]
        elif places:
            kinds = _ZERO_KEEPERS.get(node["op"], ())
            is_harmless = node.get("attrs", {}).get("act_type") in kinds
            further = _find_convolutions_after(reader, graph, known) if is_harmless else None
        if further is None:
            return None
        found += further
    return found


def _is_convolution(number: int, graph: Graph, known: Names) -> bool:
    """Say whether a node is a convolution of all channels at once, with known parameters that no other node uses."""
    node = graph["nodes"][number]
    if node["op"] != "Convolution" or node["attrs"].get("num_group", "1") != "1":
        return False
    uses = [source for each in graph["nodes"] for source, *_ in each["inputs"]]
    return all(graph["nodes"][source]["name"] in known and uses.count(source) == 1 for source, *_ in node["inputs"][1:])
