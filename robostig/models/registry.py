"""The registry: one dictionary from a name to a model and to what is known of it."""

from __future__ import annotations

import difflib
import fnmatch
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, NamedTuple, Optional, TypeVar

from robostig.backend import mx
from robostig.preprocessing import InputSpec

__all__ = ["ModelSpec", "get_model", "get_spec", "list_models", "register"]

Builder = Callable[..., Any]
WeightLoader = Callable[[mx.gluon.HybridBlock], None]
AnyBuilder = TypeVar("AnyBuilder", bound=Builder)


@dataclass(frozen=True)
class ModelSpec:
    """What is known of a registered model before it is built.

    Parameters
    ----------
    name
        The name to ask for.
    input
        The input contract: size, crop and colour space. The network takes (N, 3, height, width) float32, 0..255,
        and answers (N, 1) steering.
    parameters
        Number of trainable parameters at that input size.
    reference
        Where the architecture was published.
    summary
        One line for tables: the docstring's first.
    pretrained
        What the weights of ``get_model(name, pretrained=True)`` were trained on, such as "ImageNet"; empty if there
        are none.
    """

    name: str
    input: InputSpec
    parameters: int
    reference: str
    summary: str
    pretrained: str = ""


class _Model(NamedTuple):
    spec: ModelSpec
    builder: Builder
    load_weights: Optional[WeightLoader]


_MODELS: Dict[str, _Model] = {}


def register(
    name: str,
    *,
    input: InputSpec,
    parameters: int,
    reference: str,
    pretrained: Optional[WeightLoader] = None,
    pretrained_on: str = "",
) -> Callable[[AnyBuilder], AnyBuilder]:
    """Register a HybridBlock class, or a function that returns a HybridBlock, under a name.

    Parameters
    ----------
    name
        Lower case, as it will be typed: ``--model NAME``.
    input, parameters, reference
        As in :class:`ModelSpec`.
    pretrained
        Puts trained weights into a network as it was built, not initialised, on the CPU; what has none there, such as a
        new last layer, it initialises. None if there are no such weights. It raises OSError if it cannot get them, and
        ValueError if what it got is damaged.
    pretrained_on
        What they were trained on, in a word or two; needed with ``pretrained``.

    Returns
    -------
    Callable
        The decorator; it gives back what it decorates.

    Raises
    ------
    ValueError
        If the name is taken (a notebook's cell may define its model again), the model has no docstring to take its
        summary from, or only one of ``pretrained`` and ``pretrained_on`` is given.

    Examples
    --------
    >>> @register("linear", input=InputSpec(8, 16), parameters=385, reference="Pomerleau 1989")
    ... class Linear(mx.gluon.nn.HybridSequential):
    ...     '''One layer, to show how little a model needs.'''
    ...     def __init__(self):
    ...         super().__init__(prefix="linear_")
    ...         with self.name_scope():
    ...             self.add(mx.gluon.nn.Flatten(), mx.gluon.nn.Dense(1))
    """

    def decorate(builder: AnyBuilder) -> AnyBuilder:
        if name in _MODELS and not _is_rewritten(_MODELS[name].builder, builder):
            taken_by = _MODELS[name].builder
            raise ValueError(
                f"a model named {name!r} is registered already, by {taken_by.__module__}.{taken_by.__qualname__}; "
                "choose another name"
            )
        lines = (builder.__doc__ or "").strip().splitlines()
        if not lines:
            raise ValueError(f"{builder.__qualname__} has no docstring; its first line is what `robostig models` shows")
        if (pretrained is None) != (not pretrained_on):
            raise ValueError(f"{name}: weights (pretrained) and what they were trained on (pretrained_on) go together")
        spec = ModelSpec(name, input, parameters, reference, summary=lines[0], pretrained=pretrained_on)
        _MODELS[name] = _Model(spec, builder, pretrained)
        return builder

    return decorate


def _is_rewritten(old: Builder, new: Builder) -> bool:
    """Say whether a notebook's cell, or a prompt, has defined the same thing again."""
    return (old.__module__, old.__qualname__) == ("__main__", new.__qualname__) and new.__module__ == "__main__"


def get_model(name: str, *, pretrained: bool = False, **kwargs: Any) -> mx.gluon.HybridBlock:
    """Build a registered model.

    Parameters
    ----------
    name
        A name that :func:`list_models` lists.
    pretrained
        Whether to load trained weights, on the CPU; :attr:`ModelSpec.pretrained` says on what. Default False.
    **kwargs
        Handed to the model, such as ``dropout=0.2``.

    Returns
    -------
    mxnet.gluon.HybridBlock
        Not initialised, unless pretrained. Inputs: (N, 3, H, W) float32, 0..255, in the spec's colour space. Outputs:
        (N, 1) steering, 1.0 = full lock to the right.

    Raises
    ------
    ValueError
        If there is no such model; the message has the nearest names. If there are no trained weights of it; the message
        has the models that have some. If trained weights are damaged, or of another network.
    OSError
        If trained weights are not there and cannot be fetched.
    """
    model = _find(name, pretrained)
    net = model.builder(**kwargs)
    if pretrained and model.load_weights is not None:
        model.load_weights(net)
    return net


def get_spec(name: str, *, pretrained: bool = False) -> ModelSpec:
    """Return what is known of a registered model without building it.

    Parameters
    ----------
    name
        A name that :func:`list_models` lists.
    pretrained
        Whether trained weights of it are wanted. Nothing is fetched here.

    Raises
    ------
    ValueError
        As :func:`get_model`.
    """
    return _find(name, pretrained).spec


def list_models(pattern: str = "*") -> List[str]:
    """Return the registered names that match a shell pattern, sorted.

    Parameters
    ----------
    pattern
        As in a shell: ``"*"``, ``"n*"``, ``"*net*"``.
    """
    return sorted(fnmatch.filter(_MODELS, pattern))


def _find(name: str, pretrained: bool) -> _Model:
    if name not in _MODELS:
        near = difflib.get_close_matches(str(name).lower(), _MODELS, cutoff=0.4)
        hint = f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""
        raise ValueError(f"no model is named {name!r}{hint}; there are: {', '.join(list_models())}")
    if pretrained and _MODELS[name].load_weights is None:
        having = ", ".join(each for each in list_models() if _MODELS[each].load_weights) or "none"
        raise ValueError(f"there are no trained weights of {name!r}; models that have some: {having}")
    return _MODELS[name]
