"""Folding: what a network's graph need not compute for every frame is computed once, when the network is loaded.

The parameters change, and with them what the operators are told, but never the answers.
"""

from __future__ import annotations

import ast
import json
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

import numpy as np

from robostig.backend import CHANNEL_BLOCK, mx
from robostig.preprocessing import PixelLayout

__all__ = ["fold_constants", "fold_scaling", "interleave_channels", "pair_columns", "peel_scaling"]

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
    inputs = [each for node, fixed in zip(nodes, is_constant) if not fixed for each in node["inputs"]]
    split = {number for number, output, *_ in inputs if output}  # a parameter is a single array
    needed = {number for number, *_ in inputs} - split
    folded = sorted(number for number in needed if is_constant[number] and nodes[number]["op"] != "null")
    if not folded:
        return symbol, dict(parameters)
    constants = mx.sym.load_json(json.dumps({**graph, "heads": [[number, 0, 0] for number in folded]}))
    names = constants.list_inputs()
    values = mx.gluon.SymbolBlock(constants, [mx.sym.var(name) for name in names])(*(parameters[n] for n in names))
    known = dict(parameters)
    for number, value in zip(folded, values if len(folded) > 1 else [values]):
        name = f"{nodes[number]['name']}_folded"
        nodes[number] = {"op": "null", "name": name, "inputs": []}
        known[name] = value
    return _rebuild(graph, known)


def fold_scaling(symbol: Any, parameters: Mapping[str, Any]) -> Tuple[Any, Dict[str, Any]]:
    """Let convolutions scale their input, where the graph does so with scalars before them.

    A convolution of ``scale * x + offset`` is one of ``x`` with other parameters, if nothing is padded. With padding,
    which is zero after the scaling, the offset stays: it becomes ``offset / scale``.

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
    uses = [number for node in [*nodes, {"inputs": graph["heads"]}] for number, *_ in node["inputs"]]
    for node in nodes:
        if not _is_convolution(node):
            continue
        (source, *_), *rest = node["inputs"]
        weight, bias = (nodes[number]["name"] for number, *_ in rest)
        if not {weight, bias} <= known.keys() or any(uses.count(number) > 1 for number, *_ in rest):
            continue
        chain: List[Tuple[str, float]] = []
        last = source
        while nodes[source]["op"] in _SCALAR_OPERATORS:
            chain.insert(0, (nodes[source]["op"], float(nodes[source]["attrs"]["scalar"])))
            source = nodes[source]["inputs"][0][0]
        scale, offset = 1.0, 0.0
        for operator, scalar in chain:
            scale, offset = _SCALAR_OPERATORS[operator](scale, offset, scalar)
        values = known[weight].asnumpy().astype(np.float64)
        if chain and not _is_padded(node):
            known[bias] = mx.nd.array(known[bias].asnumpy() + offset * values.sum(axis=(1, 2, 3)))
            node["inputs"][0] = [source, 0, 0]
        elif len(chain) > 1 and scale and uses.count(last) == 1:
            nodes[last].update(op="_plus_scalar", attrs={"scalar": repr(offset / scale)}, inputs=[[source, 0, 0]])
        else:
            continue
        known[weight] = mx.nd.array(scale * values)
    return _rebuild(graph, known)


def pair_columns(
    symbol: Any, parameters: Mapping[str, Any], shape: Tuple[int, int, int, int]
) -> Tuple[Any, Dict[str, Any]]:
    """Let a convolution hand over its columns in twos, where this fills blocks of channels better.

    One of 24 channels, which are computed as 32 (:class:`robostig.convolution.AlignedConv2D`), gives two neighbouring
    columns as one of 48. The next, if it moves two columns a step, then has half as many, of 48 channels, and moves
    one. Between them there may be an activation.

    Parameters
    ----------
    symbol, parameters
        As for :func:`fold_constants`.
    shape
        The input's: (N, channels, height, width).

    Returns
    -------
    tuple
        The graph, and its parameters. The answers are the same to within rounding.
    """
    graph = json.loads(symbol.tojson())
    nodes, known = graph["nodes"], dict(parameters)
    every = mx.sym.load_json(json.dumps({**graph, "heads": [[number, 0, 0] for number in range(len(nodes))]}))
    given = {name: known[name].shape for name in every.list_arguments() if name in known}
    sizes = every.infer_shape(data=shape, **given)[1]
    for second in filter(_is_convolution, nodes if sizes else ()):  # MXNet cannot tell the sizes of every graph
        number = second["inputs"][0][0]
        activation = nodes[number]
        if _keeps_zero(activation):
            number = activation["inputs"][0][0]
        first = nodes[number]
        is_only_way = _count_uses(activation, graph) == 1
        if not (is_only_way and all(_is_plain(node, graph, known) for node in (first, second))):
            continue
        weight, bias, next_weight = (nodes[each]["name"] for each, *_ in (*first["inputs"][1:], second["inputs"][1]))
        kernel, offset, next_kernel = (known[name].asnumpy() for name in (weight, bias, next_weight))
        channels = _count_used(kernel, offset)
        (down, aside), (next_down, next_aside) = (ast.literal_eval(each["attrs"]["stride"]) for each in (first, second))
        is_fuller = channels % CHANNEL_BLOCK and not 2 * channels % CHANNEL_BLOCK
        if not is_fuller or next_aside != 2 or sizes[number][3] % 2:
            continue
        left, right = (np.pad(kernel[:channels], [(0, 0)] * 3 + [margin]) for margin in ((0, aside), (aside, 0)))
        known[weight] = _set_kernel(first, np.concatenate([left, right]), (down, 2 * aside))
        known[bias] = mx.nd.array(np.tile(offset[:channels], 2))
        columns = np.pad(next_kernel[:, :channels], [(0, 0)] * 3 + [(0, next_kernel.shape[3] % 2)])
        columns = np.concatenate([columns[..., 0::2], columns[..., 1::2]], axis=1)
        known[next_weight] = _set_kernel(second, columns, (next_down, 1))
    return _rebuild(graph, known)


def interleave_channels(
    symbol: Any, parameters: Mapping[str, Any], shape: Tuple[int, int, int, int]
) -> Tuple[Any, Dict[str, Any], Optional[PixelLayout]]:
    """Let a network take pixels as they lie in a picture, in place of a plane for each channel.

    A convolution of several planes is one of a single plane that has their columns in turn, with a kernel and steps
    that are as many times as wide. Before it there may be scalar operators, and one that leaves the lowest rows out,
    which goes: these rows need not be given. Where a shift was left because the convolution pads, it goes as well: the
    padding is given with the frames, as a border of what becomes zero.

    Parameters
    ----------
    symbol, parameters
        As for :func:`fold_constants`.
    shape
        The input's: (N, channels, height, width).

    Returns
    -------
    tuple
        The graph, its parameters, and how it takes its input, as :meth:`robostig.preprocessing.PixelLayout.arrange`
        gives it. The answers are the same to within rounding. All as it was, and None for the layout, where the network
        begins with something else.
    """
    graph = json.loads(symbol.tojson())
    nodes, known, (_, channels, rows, _) = graph["nodes"], dict(parameters), shape
    scale, offset = 1.0, 0.0
    node, number = None, next(number for number, node in enumerate(nodes) if node["name"] == "data")
    while _count_uses(nodes[number], graph) == 1:
        after = next((each for each, node in enumerate(nodes) if [*node["inputs"], [None]][0][0] == number), None)
        if after is None:
            break
        node = nodes[after]
        if _is_cut(node) and _count_uses(node, graph) == 1:
            rows = len(range(rows)[: int(node["attrs"]["end"])])
            for user in nodes:
                user["inputs"] = [[number, 0, 0] if each[0] == after else each for each in user["inputs"]]
            node["inputs"] = []
        elif node["op"] in _SCALAR_OPERATORS:
            scale, offset = _SCALAR_OPERATORS[node["op"]](scale, offset, float(node["attrs"]["scalar"]))
            number = after
        else:
            break
    if node is None or not _is_plain(node, graph, known, padded=True):
        return symbol, dict(parameters), None
    weight = nodes[node["inputs"][1][0]]["name"]
    kernel = known[weight].asnumpy().transpose(0, 2, 3, 1)
    down, aside = ast.literal_eval(node["attrs"]["stride"])
    known[weight] = _set_kernel(node, kernel.reshape(len(kernel), 1, kernel.shape[1], -1), (down, channels * aside))
    layout = PixelLayout(rows)
    if _is_padded(node):
        above, beside = ast.literal_eval(node["attrs"]["pad"])
        is_shifted = bool(scale and offset)  # else zeros stay zeros, or nothing becomes zero
        if is_shifted:
            layout = PixelLayout(rows, above, beside, fill=-offset / scale)
        node["attrs"]["pad"] = "(0, 0)" if is_shifted else str((above, channels * beside))
    return (*fold_scaling(*_rebuild(graph, known)), layout)


def peel_scaling(symbol: Any) -> Tuple[Any, float, float]:
    """Leave out the scalar operators that a graph begins with, for who scales its input while it is made.

    Returns
    -------
    tuple
        The graph for ``scale * data + offset``, the scale, and the offset; the graph itself, 1 and 0, if it begins with
        something else. The answers are the same to within rounding.
    """
    graph = json.loads(symbol.tojson())
    nodes, scale, offset = graph["nodes"], 1.0, 0.0
    data = number = next(number for number, node in enumerate(nodes) if node["name"] == "data")
    while _count_uses(nodes[number], graph) == 1:
        after = next(
            (each for each, node in enumerate(nodes) if [number] in [first[:1] for first in node["inputs"]]), data
        )
        if nodes[after]["op"] not in _SCALAR_OPERATORS:
            break
        scale, offset = _SCALAR_OPERATORS[nodes[after]["op"]](scale, offset, float(nodes[after]["attrs"]["scalar"]))
        number = after
    if number == data:
        return symbol, 1.0, 0.0
    nodes[number] = nodes[data]
    return mx.sym.load_json(json.dumps(graph)), scale, offset


def _is_cut(node: Mapping[str, Any]) -> bool:
    """Say whether a node leaves the lowest rows of pictures out, and does nothing else."""
    attributes = node.get("attrs", {})
    is_from_above = attributes.get("axis") == "2" and attributes.get("begin") == "0"
    return node["op"] == "slice_axis" and is_from_above and attributes.get("end", "None") != "None"


def _keeps_zero(node: Mapping[str, Any]) -> bool:
    """Say whether a node is an activation that maps zero to zero."""
    return node.get("attrs", {}).get("act_type") in ("elu", "gelu", "leaky", "relu", "softsign", "tanh")


def _is_plain(
    node: Mapping[str, Any], graph: Mapping[str, Any], known: Mapping[str, Any], *, padded: bool = False
) -> bool:
    """Say whether a node is a convolution that may be exchanged: nothing is grouped, left out or shared, nor padded."""
    if not _is_convolution(node) or (_is_padded(node) and not padded):
        return False
    attributes, parameters = node["attrs"], [graph["nodes"][number] for number, *_ in node["inputs"][1:]]
    return (
        attributes.get("num_group", "1") == "1"
        and attributes.get("dilate", "(1, 1)") == "(1, 1)"
        and "stride" in attributes
        and all(each["name"] in known for each in parameters)
        and all(_count_uses(each, graph) == 1 for each in (node, *parameters))
    )


def _count_uses(node: Mapping[str, Any], graph: Mapping[str, Any]) -> int:
    """Return how often a node's output is an input of others, or of the graph's user."""
    users = [*graph["heads"], *(each for other in graph["nodes"] for each in other["inputs"])]
    return sum(graph["nodes"][number] is node for number, *_ in users)


def _count_used(kernel: np.ndarray, offset: np.ndarray) -> int:
    """Return how many channels a convolution's output has before those that are always zero."""
    used = np.flatnonzero(kernel.any(axis=(1, 2, 3)) | (offset != 0))
    return 1 + int(used.max(initial=0))


def _set_kernel(node: Dict[str, Any], kernel: np.ndarray, stride: Tuple[int, int]) -> mx.nd.NDArray:
    """Tell a convolution of its new kernel and stride, and return the former as its parameter."""
    node["attrs"].update(num_filter=str(len(kernel)), kernel=str(kernel.shape[2:]), stride=str(stride))
    return mx.nd.array(kernel)


def _is_convolution(node: Mapping[str, Any]) -> bool:
    """Say whether a node is a convolution in two dimensions with a bias."""
    kernel = node.get("attrs", {}).get("kernel", "")
    return node["op"] == "Convolution" and len(node["inputs"]) == 3 and kernel.count(",") == 1


def _is_padded(node: Mapping[str, Any]) -> bool:
    """Say whether a convolution pads its input."""
    return node["attrs"].get("pad", "()") not in ("(0, 0)", "[0, 0]", "()", "[]")


def _rebuild(graph: Dict[str, Any], known: Mapping[str, Any]) -> Tuple[Any, Dict[str, Any]]:
    """Return a changed graph as a symbol, and those of the known parameters that it still uses."""
    graph["arg_nodes"] = [number for number, node in enumerate(graph["nodes"]) if node["op"] == "null"]
    for number in graph["arg_nodes"]:
        graph["nodes"][number].get("attrs", {}).pop("__shape__", None)  # as it was declared, and may no longer be
    symbol = mx.sym.load_json(json.dumps(graph))
    used = symbol.list_inputs()
    return symbol, {name: value for name, value in known.items() if name in used}
