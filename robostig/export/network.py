"""A network's graph in the ONNX format, as MXNet's own exporter translates it, operator by operator."""

from __future__ import annotations

import importlib
import json
import warnings
from typing import Any, List, Mapping, Tuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from robostig._compat import restore_onnx_mapping
from robostig.artifact import Artifact
from robostig.export.narrowing import drop_zero_channels
from robostig.folding import fold_constants, fold_scaling

__all__ = ["DATA", "OPSET", "convert_network"]

# ONNX 1.8, 2020: the newest that MXNet's exporter translates to, and one that ONNX Runtime from 1.6, TensorRT from 8.0
# and OpenVINO from 2021 run. Later sets have nothing that these networks need.
OPSET = 13
DATA = "data"  # what MXNet calls the input


def convert_network(artifact: Artifact) -> Tuple[onnx.GraphProto, int]:
    """Translate a trained network.

    Parameters
    ----------
    artifact
        Loaded, on the CPU.

    Returns
    -------
    tuple
        The graph, and how many trained parameters are in it. It has one input, :data:`DATA`: (N, 3, H, W) float32,
        0..255, and one output: (N, 1) steering, not bounded.

    Raises
    ------
    ValueError
        If the network has an operator that cannot be translated, naming it and its layer.
    """
    # From the file: what is loaded is changed for MXNet's sake. Folded, the padding of AlignedConv2D is constants.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Cannot decide type")  # of parameters, which have one
        symbol, parameters = drop_zero_channels(*fold_scaling(*fold_constants(*artifact.read_graph())))
    size = artifact.spec.height, artifact.spec.width
    try:
        graph = _translate(symbol, parameters, size)
    except Exception as error:  # the exporter raises whatever happens to it
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"{artifact.model} cannot be exported to ONNX: {_find_culprit(symbol, parameters, size)} ({reason})"
        ) from error
    inputs = [each for each in graph.input if each.name == DATA]
    del graph.input[:]  # with the parameters among them, ONNX Runtime would not take these for constants
    graph.input.extend(inputs)
    trained = set(symbol.list_arguments()).intersection(parameters)  # the rest are normalisation's means and variances
    return graph, sum(int(np.prod(each.dims)) for each in graph.initializer if each.name in trained)


def _translate(symbol: Any, parameters: Mapping[str, Any], size: Tuple[int, int]) -> onnx.GraphProto:
    # Not export_model: it labels its file with the newest set of operators that onnx knows, whatever is in it.
    restore_onnx_mapping(onnx)
    importlib.import_module("mxnet.onnx")  # registers the translations
    exporter = importlib.import_module("mxnet.onnx.mx2onnx._export_onnx").MXNetGraph
    exporter.register("null", OPSET)(_translate_variable)
    return exporter().create_onnx_graph_proto(
        symbol,
        parameters,
        [(1, 3, *size)],
        [TensorProto.FLOAT],
        opset_version=OPSET,
        dynamic=True,
        dynamic_input_shapes=[("N", 3, *size)],
    )


def _translate_variable(node: Mapping[str, Any], **of_exporter: Any) -> Tuple[List[onnx.ValueInfoProto], Tuple[Any]]:
    """Translate an input or a parameter; MXNet's own translation makes a list of each of a million numbers."""
    name = node["name"]
    if of_exporter["is_input"]:
        return [helper.make_tensor_value_info(name, of_exporter["in_type"], of_exporter["in_shape"])], (np.float32,)
    value: np.ndarray = of_exporter["weights"][name]
    tensor = numpy_helper.from_array(value, name)
    of_exporter["initializer"].append(tensor)
    return [helper.make_tensor_value_info(name, tensor.data_type, value.shape)], (value.dtype,)


def _find_culprit(symbol: Any, parameters: Mapping[str, Any], size: Tuple[int, int]) -> str:
    """Return the first layer that cannot be translated, in words."""
    for layer in symbol.get_internals():
        node = json.loads(layer.tojson())["nodes"][-1]
        if node["op"] == "null":
            continue
        try:
            _translate(layer, {name: parameters[name] for name in layer.list_inputs() if name in parameters}, size)
        except Exception:
            return f"its layer {node['name']} is the operator {node['op']}, which MXNet's exporter cannot translate"
    return "its layers can be translated one by one, but not together"
