"""An ONNX graph in the making: its operators and constants, each named when it is added."""

from __future__ import annotations

from typing import Any, List, Union

import numpy as np
import onnx
from onnx import helper, numpy_helper

__all__ = ["GraphBuilder"]


class GraphBuilder:
    """Operators, each after what it needs, and their constants.

    Parameters
    ----------
    prefix
        What the names of all that is added begin with.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes: List[onnx.NodeProto] = []
        self.constants: List[onnx.TensorProto] = []

    def add(
        self, operator: str, *inputs: Union[str, np.ndarray, np.generic], output: str = "", **attributes: Any
    ) -> str:
        """Add an operator.

        Parameters
        ----------
        operator
            ONNX's name of it.
        *inputs
            Names of values, or constants.
        output
            What to call its value; by default a name is made up.
        **attributes
            The operator's own.

        Returns
        -------
        str
            The name of its value.
        """
        name = f"{self.prefix}{operator.lower()}{len(self.nodes)}"
        names = [each if isinstance(each, str) else self._add_constant(each) for each in inputs]
        self.nodes.append(helper.make_node(operator, names, [output or name], name, **attributes))
        return output or name

    def _add_constant(self, value: Union[np.ndarray, np.generic]) -> str:
        name = f"{self.prefix}constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name
