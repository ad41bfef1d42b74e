"""Networks as graphs and back: a block's graph, and a block of a part of it that shares the parameters."""

from __future__ import annotations

import logging
import warnings
from typing import Any, Optional

from robostig.backend import mx

__all__ = ["make_block", "trace"]

logger = logging.getLogger(__name__)


def trace(net: mx.gluon.HybridBlock) -> Optional[Any]:
    """Return the graph of a network whose input is ``data``, :class:`mxnet.sym.Symbol`.

    Returns
    -------
    mxnet.sym.Symbol
        Or None where a network is none as a whole: one with a ``forward`` of its own may ask its input for what only
        an array has, and hybridize by parts.
    """
    try:
        return net(mx.sym.var("data"))
    except Exception as error:  # whatever a forward raises that was written for arrays
        logger.debug("%s is no graph: %s", net.name, error)
        return None


def make_block(symbol: Any, name: str, parameters: Any) -> Optional[mx.gluon.SymbolBlock]:
    """Return a block of a graph that shares parameters with the block that they are of.

    Parameters
    ----------
    symbol
        The graph.
    name
        Of its input.
    parameters
        What ``collect_params()`` of that block returns.

    Returns
    -------
    mxnet.gluon.SymbolBlock
        Or None where a parameter is of another type than Gluon takes it for, such as indices.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Cannot decide type")  # of the input, which takes any
            return mx.gluon.SymbolBlock(symbol, [mx.sym.var(name)], params=parameters)
    except AssertionError as error:  # of Gluon's, about what differs
        logger.debug("no block with %s as its input: %s", name, error)
        return None
