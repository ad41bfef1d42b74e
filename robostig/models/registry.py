"""The registry: one dictionary from a name to a model and to what is known of it."""

from __future__ import annotations

import difflib
import fnmatch
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Tuple, TypeVar

from robostig.backend import mx
from robostig.preprocessing import InputSpec

__all__ = ["ModelSpec", "get_model", "get_spec", "list_models", "register"]

Builder = Callable[..., Any]
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
    """

    name: str
    input: InputSpec
    parameters: int
    reference: str
    summary: str


_MODELS: Dict[str, Tuple[ModelSpec, Builder]] = {}


def register(name: str, *, input: InputSpec, parameters: int, reference: str) -> Callable[[AnyBuilder], AnyBuilder]:
    """Register a HybridBlock class, or a function that returns a HybridBlock, under a name.

    Parameters
    ----------
    name
        Lower case, as it will be typed: ``--model NAME``.
    input, parameters, reference
        As in :class:`ModelSpec`.

    Returns
    -------
    Callable
        The decorator; it gives back what it decorates.

    Raises
    ------
    ValueError
        If the name is taken, or the model has no docstring to take its summary from.

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
        if name in _MODELS:
            taken_by = _MODELS[name][1]
            raise ValueError(
                f"a model named {name!r} is registered already, by {taken_by.__module__}.{taken_by.__qualname__}; "
                "choose another name"
            )
        lines = (builder.__doc__ or "").strip().splitlines()
        if not lines:
            raise ValueError(f"{builder.__qualname__} has no docstring; its first line is what `robostig models` shows")
        _MODELS[name] = ModelSpec(name, input, parameters, reference, summary=lines[0]), builder
        return builder

    return decorate


def get_model(name: str, **kwargs: Any) -> mx.gluon.HybridBlock:
    """Build a registered model.

    Parameters
    ----------
    name
        A name that :func:`list_models` lists.
    **kwargs
        Handed to the model, such as ``dropout=0.2``.

    Returns
    -------
    mxnet.gluon.HybridBlock
        Not initialised. Inputs: (N, 3, H, W) float32, 0..255, in the spec's colour space. Outputs: (N, 1) steering,
        1.0 = full lock to the right.

    Raises
    ------
    ValueError
        If there is no such model; the message has the nearest names.
    """
    return _find(name)[1](**kwargs)


def get_spec(name: str) -> ModelSpec:
    """Return what is known of a registered model without building it; raises as :func:`get_model` does."""
    return _find(name)[0]


def list_models(pattern: str = "*") -> List[str]:
    """Return the registered names that match a shell pattern, sorted.

    Parameters
    ----------
    pattern
        As in a shell: ``"*"``, ``"n*"``, ``"*net*"``.
    """
    return sorted(fnmatch.filter(_MODELS, pattern))


def _find(name: str) -> Tuple[ModelSpec, Builder]:
    if name not in _MODELS:
        near = difflib.get_close_matches(str(name).lower(), _MODELS, cutoff=0.4)
        hint = f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""
        raise ValueError(f"no model is named {name!r}{hint}; there are: {', '.join(list_models())}")
    return _MODELS[name]
