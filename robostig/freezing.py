"""Freezing: a network's backbone keeps the weights that it came with, while what is behind it learns."""

from __future__ import annotations

from typing import Any, List

from robostig.backend import mx

__all__ = ["Backbone"]


class Backbone:
    """The part of a network that looks, which can be frozen: its block ``features``, as Gluon's zoos name it.

    What is frozen has no gradients, and its batch normalisation neither uses nor follows the statistics of the batches
    at hand.

    Parameters
    ----------
    net
        The network. Its head, which learns on, is whatever is not in ``features``.

    Raises
    ------
    ValueError
        If it has no ``features`` with parameters, or nothing else that learns.
    """

    def __init__(self, net: mx.gluon.Block) -> None:
        features: Any = getattr(net, "features", None)
        self.parameters = features.collect_params() if isinstance(features, mx.gluon.Block) else {}
        rest = [each for name, each in net.collect_params().items() if name not in self.parameters]
        if not (self.parameters and any(each.grad_req != "null" for each in rest)):
            raise ValueError(
                f"{type(net).__name__} has no backbone that could be frozen, which would be a block 'features' with a "
                "head behind it. Choose freeze_epochs=0"
            )
        self.is_frozen = False
        self._requests = {name: each.grad_req for name, each in self.parameters.items()}
        blocks: List[Any] = []
        features.apply(blocks.append)
        self._norms = [each for each in blocks if "use_global_stats" in getattr(each, "_kwargs", ())]
        self._settings = [block._kwargs["use_global_stats"] for block in self._norms]

    def freeze(self, frozen: bool = True) -> None:
        """Hold weights and statistics, or let everything learn again that did before.

        Graphs that are compiled already do not know of it: hybridize the network again.
        """
        self.is_frozen = frozen
        for name, parameter in self.parameters.items():
            parameter.grad_req = "null" if frozen else self._requests[name]
        for norm, setting in zip(self._norms, self._settings):
            norm._kwargs["use_global_stats"] = frozen or setting
