"""Which pixels steer: NVIDIA's explanation of PilotNet, for any network whose graph has convolutions.

The feature maps of a convolutional layer are averaged over its channels. From the deepest layer up, the averaged map is
scaled to the size of the layer before by a deconvolution with the layer's own kernel and stride, all weights 1, and
multiplied point by point with the averaged map there, until it has the size of the input. So a pixel counts if it lies
where all layers found something: the first ones know exactly where, and the last ones what matters.

It is the graph that is read, so it does not matter how a network was written:

- Of all layers whose maps have one size, one is taken: what the convolution or pooling reads that leads to the next
  size, or the network's head; activated, normalised and added up as it may be. In PilotNet and in comma.ai's network
  that is every convolution. Deep networks have many of one size, of which the last knows most.
- The paper's activations are never negative. An ELU's are, and -1 tells the next layer as much as 1 does: what counts
  is the absolute value, which changes nothing behind a ReLU. To cut off at zero instead was tried with `nvidia` and
  `comma` on the built-in track: fewer of the strongest pixels were then at the road's edges, and to paint these out
  changed the steering less, beside as many others (:mod:`robostig.evidence`).
- Channels that :mod:`robostig.convolution` appends are zero. They scale an average, as does every constant factor, and
  the mask is scaled to 0..1 at the end.

References
----------
Bojarski et al., "Explaining How a Deep Neural Network Trained with End-to-End Learning Steers a Car", 2017,
arXiv:1704.07911, section 3. With other networks: Bojarski et al., "VisualBackProp: efficient visualization of CNNs",
2016, arXiv:1611.05418.
"""

from __future__ import annotations

import ast
import json
import warnings
from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from robostig.artifact import Artifact
from robostig.backend import find_context, mx
from robostig.folding import fold_constants
from robostig.pilot import FRAMES_AT_ONCE, as_network_input
from robostig.preprocessing import InputSpec, preprocess

__all__ = ["Explanation", "SaliencyMasker", "explain"]

Pair = Tuple[int, int]  # along rows, along columns


class Explanation(NamedTuple):
    """What a network looked at, and what it answered.

    Parameters
    ----------
    masks
        (n, height, width) float32 of the network's input size, 0..1: how much each pixel counts, 1 the most in its
        frame. Where a network found nothing at all, it is 0 everywhere.
    steering
        (n,) float32, -1..1.
    """

    masks: np.ndarray
    steering: np.ndarray


def explain(artifact: Artifact, frames: Iterable[np.ndarray]) -> np.ndarray:
    """Return which pixels of camera frames steer a model.

    Parameters
    ----------
    artifact
        The model, as :func:`robostig.artifact.load_artifact` returns it.
    frames
        (H, W, 3) uint8 RGB each, as the camera gives them.

    Returns
    -------
    numpy.ndarray
        (n, height, width) float32, 0..1, of the network's input size: of the part of a frame that it looks at.
        :func:`robostig.overlay.place_mask` lays it over the frame.

    Raises
    ------
    ValueError
        If the network has no convolutions, or a frame is none.
    """
    inputs = [preprocess(frame, artifact.spec) for frame in frames]
    return SaliencyMasker.load(artifact).look(np.array(inputs, np.uint8).reshape(-1, *artifact.spec.shape)).masks


class SaliencyMasker:
    """Finds the pixels that steer; one pass through the network gives masks and steering.

    Parameters
    ----------
    symbol
        The network's graph, :class:`mxnet.sym.Symbol`: ``data``, (N, 3, H, W) float32 0..255 -> (N, 1) steering.
    parameters
        Name to value (NDArray).
    spec
        Its input.
    context
        Where to compute; the CPU if None.
    name
        What to call the network in messages.

    Raises
    ------
    ValueError
        If the network has no convolutions, or changes the size of its maps by something else than convolutions,
        poolings and slices.
    """

    def __init__(
        self,
        symbol: Any,
        parameters: Mapping[str, Any],
        spec: InputSpec,
        *,
        context: Optional[mx.Context] = None,
        name: str = "the network",
    ) -> None:
        self.spec, self._context = spec, context or mx.cpu()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Cannot decide type")  # of the input, which takes any
            symbol, parameters = fold_constants(symbol, parameters)
            graph = json.loads(symbol.tojson())
            shapes = {each: value.shape for each, value in parameters.items()}
            layers = _find_layers(graph, {**shapes, "data": (1, 3, spec.height, spec.width)}, name)
            self._windows = [layer.windows for layer in layers]
            read = _select(graph, [*(layer.node for layer in layers), graph["heads"][0][0]])
            # What it reads is averaged by NumPy, which is ten times as quick about it as MXNet's operators.
            self._net = mx.gluon.SymbolBlock(read, mx.sym.var("data"))
            self._net.collect_params().load_dict(
                parameters, ctx=self._context, cast_dtype=True, dtype_source="saved", ignore_extra=True
            )
        self._net.hybridize(static_alloc=True, static_shape=True)

    @classmethod
    def load(cls, artifact: Artifact) -> SaliencyMasker:
        """Read an artifact's graph, as it was saved: the loaded one is changed for speed, and shows less."""
        context = find_context(artifact.net)
        return cls(*artifact.read_graph(), artifact.spec, context=context, name=str(artifact.folder))

    def look(self, inputs: np.ndarray) -> Explanation:
        """Explain frames that are preprocessed already.

        Parameters
        ----------
        inputs
            (n, height, width, 3) uint8 in the network's colour space.
        """
        cuts = range(0, len(inputs), FRAMES_AT_ONCE)
        parts = [self._look(inputs[cut : cut + FRAMES_AT_ONCE]) for cut in cuts]
        parts = parts or [Explanation(np.empty((0, *self.spec.shape[:2]), np.float32), np.empty(0, np.float32))]
        return Explanation(*map(np.concatenate, zip(*parts)))

    def _look(self, inputs: np.ndarray) -> Explanation:
        *maps, steering = (each.asnumpy() for each in self._net(as_network_input(inputs, self._context)))
        mask = np.ones((len(inputs), 1, 1), np.float32)
        for features, windows in zip(reversed(maps), reversed(self._windows)):
            averaged = np.abs(features, out=features).mean(axis=1)
            mask = _scale(averaged * mask)  # products of many layers would leave float32 at either end
            for rows, columns in windows:
                mask = rows.T @ mask @ columns
        mask = mask - mask.min(axis=(1, 2), keepdims=True)
        return Explanation(_scale(mask), np.clip(steering.reshape(-1), -1.0, 1.0))


def _scale(maps: np.ndarray) -> np.ndarray:
    """Divide (n, h, w) maps by their largest values; a map of zeros stays one."""
    highest = maps.max(axis=(1, 2), keepdims=True)
    return maps / np.where(highest > 0.0, highest, np.float32(1.0))


@dataclass(frozen=True)
class _Layer:
    """A layer that is averaged.

    Parameters
    ----------
    node
        The number of the node whose output it is.
    windows
        What leads from its size to that of the layer before, one after the other: for rows and for columns a matrix
        (size here, size there) that is 1 where an output looks at an input. There are several windows if something is
        between that has no feature maps, such as a pooling of the picture itself.
    """

    node: int
    windows: List[Tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class _Change:
    """How maps get a size.

    Parameters
    ----------
    source
        The node that the change to this size reads; None for the input's own size.
    kernel
        Of that change, to prefer the larger one of two that are side by side, as in a residual block.
    windows
        What it looks at, as in :class:`_Layer`.
    """

    source: Optional[int] = None
    kernel: Pair = (1, 1)
    windows: Tuple[np.ndarray, np.ndarray] = (np.empty(0), np.empty(0))


def _find_layers(graph: Mapping[str, Any], given: Mapping[str, Sequence[int]], name: str) -> List[_Layer]:
    """Return the layers to average, from the input down; the shapes of input and parameters are given."""
    nodes = graph["nodes"]
    operators = [number for number, node in enumerate(nodes) if node["op"] != "null"]
    every = _select(graph, operators)
    shapes = every.infer_shape(**{each: given[each] for each in every.list_arguments() if each in given})[1]
    if shapes is None:
        raise ValueError(f"{name} cannot be explained: MXNet cannot tell the sizes of its feature maps")
    shape_of: Dict[int, Sequence[int]] = dict(zip(operators, shapes))
    found: Dict[int, Pair] = {}  # nodes with maps, and the size of these
    changes: Dict[int, _Change] = {}  # how they got it
    is_convolved: Dict[int, bool] = {}
    for number, node in enumerate(nodes):
        sources = [source for source, *_ in node["inputs"] if source in found]
        if node["op"] == "null":
            if node["name"] == "data":
                found[number] = (int(given["data"][2]), int(given["data"][3]))
                changes[number], is_convolved[number] = _Change(), False
            continue
        shape = shape_of[number]
        if not sources or len(shape) != 4:
            continue
        is_convolved[number] = node["op"] == "Convolution" or any(is_convolved[source] for source in sources)
        here = (int(shape[2]), int(shape[3]))
        alike = [changes[source] for source in sources if found[source] == here]
        if not alike:
            if node["op"] != "Convolution" and here == (1, 1):
                continue  # one number a channel: the head's pooling, or what weighs the channels of a block
            if node["op"] not in ("Convolution", "Pooling", "slice_axis"):
                raise ValueError(
                    f"{name} cannot be explained: {node['name']} ({node['op']}) changes the size of its feature maps; "
                    "this can be followed through convolutions, poolings and slices alone"
                )
            alike = [_read_change(node["attrs"], sources[0], found[sources[0]], here)]
        found[number], changes[number] = here, max(alike, key=lambda each: each.kernel)
    if not any(is_convolved.values()):
        raise ValueError(
            f"{name} cannot be explained: it has no convolutions, whose feature maps would show where it looks; models "
            "that have some can be, such as nvidia and comma"
        )
    layers: List[_Layer] = []
    node_here: Optional[int] = max(number for number in found if is_convolved[number])
    while node_here is not None:
        if is_convolved[node_here]:
            layers.insert(0, _Layer(node_here, []))
        change = changes[node_here]
        if change.source is not None:
            layers[0].windows.append(change.windows)
        node_here = change.source
    return layers


def _read_change(attributes: Mapping[str, str], source: int, size: Pair, new_size: Pair) -> _Change:
    """Return what the outputs of a convolution, a pooling or a slice look at."""

    def read(name: str, default: int) -> Pair:
        pair = ast.literal_eval(attributes.get(name, "()")) or (default, default)
        return int(pair[0]), int(pair[1])

    kernel, strides, pads, dilates = read("kernel", 1), read("stride", 1), list(read("pad", 0)), read("dilate", 1)
    if "begin" in attributes:  # of a slice: a convolution of single pixels that does not begin with the first
        axis, begin = int(attributes["axis"]) % 4 - 2, int(attributes["begin"])
        pads[axis] = -(begin % size[axis])
    rows, columns = (
        _cover(size[axis], new_size[axis], kernel[axis], strides[axis], pads[axis], dilates[axis]) for axis in (0, 1)
    )
    return _Change(source, kernel, (rows, columns))


def _cover(size: int, new_size: int, kernel: int, stride: int, pad: int, dilate: int) -> np.ndarray:
    """Return (new_size, size) float32: 1 where an output looks at an input, along one axis.

    With the axes' two matrices, a deconvolution with weights of 1 is ``rows.T @ map @ columns``: every input gets the
    sum of the outputs that look at it. What a stride leaves over at the end gets nothing, for nothing looks at it.
    """
    seen = np.arange(new_size)[:, None] * stride - pad + np.arange(kernel) * dilate
    return (seen[..., None] == np.arange(size)).any(axis=1).astype(np.float32)


def _select(graph: Mapping[str, Any], numbers: Sequence[int]) -> Any:
    """Return a symbol with the outputs of these nodes of a graph."""
    return mx.sym.load_json(json.dumps({**graph, "heads": [[number, 0, 0] for number in numbers]}))
