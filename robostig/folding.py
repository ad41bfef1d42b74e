"""Constant folding: what a network's graph computes from its parameters alone is computed once, and not a frame."""

from __future__ import annotations

import json
from typing import Any, Dict, Mapping, Tuple

from robostig.backend import mx

__all__ = ["fold_constants"]


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
    graph["arg_nodes"] = [number for number, node in enumerate(nodes) if node["op"] == "null"]
    rest = mx.sym.load_json(json.dumps(graph))
    used = rest.list_inputs()
    return rest, {name: value for name, value in known.items() if name in used}
