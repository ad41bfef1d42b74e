"""A trained network behind the wheel: a camera frame in, steering out."""

from __future__ import annotations

import threading
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Callable, Iterable, Mapping, Optional, Tuple, Union

import numpy as np

from robostig.artifact import load_artifact
from robostig.backend import find_context, mx
from robostig.preprocessing import InputSpec, PixelLayout, move_channels_first, preprocess
from robostig.threads import map_in_chunks

__all__ = ["InputMemory", "Pilot", "as_network_input", "predict"]

FRAMES_AT_ONCE = 64  # through the network: many frames must not take much memory


class Pilot:
    """Steers by what a camera sees.

    Parameters
    ----------
    net
        (N, 3, H, W) float32, 0..255 -> (N, 1) steering.
    spec
        How to preprocess a frame for it.
    context
        Where the network computes; where its parameters are if None.
    facts
        What is known of the model, if anything.
    layout
        How the network takes pixels, if it takes them as they lie in a picture; planes if None.

    Examples
    --------
    >>> pilot = Pilot.load("out/nvidia")          # doctest: +SKIP
    >>> pilot.steer(frame)                        # doctest: +SKIP
    -0.0312
    """

    def __init__(
        self,
        net: mx.gluon.Block,
        spec: InputSpec,
        *,
        context: Optional[mx.Context] = None,
        facts: Optional[Mapping[str, Any]] = None,
        layout: Optional[PixelLayout] = None,
    ) -> None:
        self.net = net
        self.spec = spec
        self.context = context or find_context(net)
        self.facts = dict(facts or {})
        self.layout = layout
        self._memory = InputMemory(self.context, layout)

    @classmethod
    def load(cls, folder: Union[str, Path], *, context: Optional[mx.Context] = None, dtype: str = "float32") -> Pilot:
        """Load an artifact; takes and raises what :func:`robostig.artifact.load_artifact` does."""
        artifact = load_artifact(folder, context, dtype=dtype, interleaved=True)
        return cls(artifact.net, artifact.spec, context=context, facts=artifact.facts, layout=artifact.layout)

    def steer(self, frame: np.ndarray) -> float:
        """Return the steering for one camera frame.

        Parameters
        ----------
        frame
            (H, W, 3) uint8 RGB as the camera gives it, of any size.

        Returns
        -------
        float
            -1..1, 1.0 = full lock to the right.

        Raises
        ------
        ValueError
            If ``frame`` is no such picture.
        """
        return float(self.predict(preprocess(frame, self.spec, copy=False)[None])[0])

    def steer_many(self, frames: Iterable[np.ndarray]) -> np.ndarray:
        """Return (n,) float32 steering for n camera frames, each an array of its own; they may differ in size."""
        steering = [np.empty(0, np.float32)]
        with closing(map_in_chunks(partial(preprocess, spec=self.spec, copy=False), frames)) as chunks:
            steering += (self.predict(np.stack(inputs)) for inputs in chunks)
        return np.concatenate(steering)

    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """Return (n,) float32 steering for frames that are preprocessed already, (n, height, width, 3) uint8."""
        parts = [inputs[cut : cut + FRAMES_AT_ONCE] for cut in range(0, len(inputs), FRAMES_AT_ONCE)]
        return np.concatenate([predict(self.net, part, self.context, memory=self._memory) for part in parts])


class InputMemory(threading.local):
    """What a network takes its input from, of each thread its own, used again for as many frames as before.

    On a CPU, to make new memory known to MXNet takes as long as to write one frame's pixels, and to get that for many
    frames longer than to write them. MXNet keeps the memory between its layers in the same way. On other devices, all
    is as without.

    Parameters
    ----------
    context
        Where the network computes.
    layout
        How it takes pixels, if it takes them as they lie in a picture; planes if None.
    scale, offset
        Of each number of the planes, if not 1 and 0: on CPUs only.
    """

    def __init__(
        self, context: mx.Context, layout: Optional[PixelLayout] = None, *, scale: float = 1.0, offset: float = 0.0
    ) -> None:
        self._context = context
        planes: Callable[..., np.ndarray] = partial(move_channels_first, scale=scale, offset=offset)
        self._arrange = planes if layout is None else layout.arrange
        self._shape: Tuple[int, ...] = ()  # of the frames that there is room for
        self._pixels = np.empty(0, np.float32)
        self._array: Any = None

    def write(self, frames: np.ndarray) -> mx.nd.NDArray:
        """Return (n, H, W, 3) uint8 frames as the network's input, valid until the thread's next call."""
        if self._context.device_type != "cpu":
            return as_network_input(frames, self._context)
        if frames.shape == self._shape:
            self._arrange(frames, out=self._pixels)
        else:
            self._pixels = self._arrange(frames)
            self._array = mx.nd.from_numpy(self._pixels[:])  # a view, since MXNet forbids writing to what it is given
            self._shape = frames.shape
        return self._array if self._context.device_id == 0 else self._array.copyto(self._context)


def predict(
    net: mx.gluon.Block,
    inputs: np.ndarray,
    context: Optional[mx.Context] = None,
    *,
    memory: Optional[InputMemory] = None,
) -> np.ndarray:
    """Run a network on preprocessed frames; training's validation, the pilot and serving all answer with this.

    Parameters
    ----------
    net
        The network.
    inputs
        (n, height, width, 3) uint8 in the network's colour space.
    context
        Where it computes; where its parameters are if None.
    memory
        For its input; new memory, and planes, if None.

    Returns
    -------
    numpy.ndarray
        (n,) float32, clipped to -1..1, the range of the wheel. NaN stays NaN.
    """
    context = context or find_context(net)
    steering = net(as_network_input(inputs, context) if memory is None else memory.write(inputs))
    if steering.dtype != np.float32:  # in mixed precision; NumPy has no bfloat16
        steering = mx.nd.amp_cast(steering, dtype="float32")
    return np.clip(steering.asnumpy().reshape(-1), -1.0, 1.0)


def as_network_input(frames: np.ndarray, context: mx.Context, *, layout: Optional[PixelLayout] = None) -> mx.nd.NDArray:
    """Move (n, H, W, 3) uint8 frames to a device and return them as (n, 3, H, W) float32, 0..255.

    With a ``layout``, for CPUs, as that arranges them.
    """
    if context.device_type == "cpu":
        # More than ten times as fast as MXNet's transpose of bytes, and MXNet takes the array over as it is.
        inputs = move_channels_first(frames) if layout is None else layout.arrange(frames)
        return mx.nd.from_numpy(inputs) if context.device_id == 0 else mx.nd.array(inputs, ctx=context)
    # The bytes travel as uint8, a quarter of the traffic; layout and type change where the network computes.
    moved = mx.nd.array(frames, ctx=context, dtype=np.uint8)
    return mx.nd.transpose(moved, (0, 3, 1, 2)).astype(np.float32)
