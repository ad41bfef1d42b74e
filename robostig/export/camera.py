"""Preprocessing in an ONNX graph: what :func:`robostig.preprocessing.preprocess` does to a frame, to the bit.

The same taps and fixed-point numbers are at work here as there. The operators are element by element: their answers do
not depend on the order in which a program adds up, as a matrix multiplication's would, and halves are common here.
"""

from __future__ import annotations

from typing import List, Tuple

import numpy as np
from onnx import TensorProto

from robostig.export.graph import GraphBuilder
from robostig.preprocessing import BLUENESS, LUMA_OF_RGB, REDNESS, YUV_BITS, InputSpec, Taps, plan_resizing

__all__ = ["add_preprocessing"]


def add_preprocessing(graph: GraphBuilder, frames: str, frame_size: Tuple[int, int], spec: InputSpec) -> str:
    """Add what makes a network's input of a camera's frames.

    Parameters
    ----------
    graph
        The graph to add to.
    frames
        Name of (N, height, width, 3) uint8, RGB.
    frame_size
        Their height and width in pixels.
    spec
        The network's wishes.

    Returns
    -------
    str
        Name of (N, 3, ``spec.height``, ``spec.width``) float32, 0..255, in ``spec.color_space``.

    Raises
    ------
    ValueError
        If such frames are too low for the crop to leave a row.
    """
    columns, (top, bottom) = frame_size[1], spec.choose_rows(frame_size[0])
    pictures = graph.add("Slice", frames, _integers(top), _integers(bottom), _integers(1))
    if (bottom - top, columns) == (spec.height, spec.width):
        pictures = _cast(graph, pictures, np.dtype(np.float32))
    else:
        pictures = _add_resizing(graph, pictures, (bottom - top, columns), (spec.height, spec.width))
    pictures = graph.add("Transpose", pictures, perm=(0, 3, 1, 2))
    return _add_yuv(graph, pictures) if spec.color_space == "yuv" else pictures


def _add_resizing(graph: GraphBuilder, pictures: str, size: Tuple[int, int], new_size: Tuple[int, int]) -> str:
    """Add what resizes (N, H, W, 3) uint8 pictures; its value is float32, but whole."""
    columns, rows, shifts, scale = plan_resizing(size, new_size)
    whole = _cast(graph, pictures, columns[1].dtype)
    whole = _drop_bits(graph, _add_taps(graph, whole, columns, axis=2), shifts[0])
    whole = _add_taps(graph, whole, rows, axis=1, shift=shifts[1])
    if scale is None:
        whole = _drop_bits(graph, graph.add("Add", whole, np.int32(2)), 2)
        return _cast(graph, whole, np.dtype(np.float32))
    if columns[1].dtype != np.float32:
        whole = _cast(graph, whole, np.dtype(np.float32))
    return graph.add("Round", graph.add("Mul", whole, np.float32(scale)) if scale != 1.0 else whole)


def _add_taps(graph: GraphBuilder, pictures: str, taps: Taps, *, axis: int, shift: int = 0) -> str:
    """Add the weighted sum of rows (axis 1) or columns (axis 2), in OpenCV's order."""
    summands: List[str] = []
    for index, weight in zip(*taps):
        tap = graph.add("Gather", pictures, index.astype(np.int64), axis=axis)
        # A column's weight once a channel: broadcast over three numbers, a multiplication took ten times as long.
        tap = graph.add("Mul", tap, weight[:, None, None] if axis == 1 else np.repeat(weight[:, None], 3, 1))
        summands.append(_drop_bits(graph, tap, shift))
    total = summands[0]
    for summand in summands[1:]:
        total = graph.add("Add", total, summand)
    return total


def _add_yuv(graph: GraphBuilder, pictures: str) -> str:
    """Add what converts (N, 3, H, W) from RGB; all is whole and below 2^24, which float32 holds exactly."""
    half, center = 2.0 ** (YUV_BITS - 1), 128.0 * 2.0**YUV_BITS

    def drop_bits(value: str) -> str:
        return graph.add("Floor", graph.add("Mul", value, np.float32(2.0**-YUV_BITS)))

    red, green, blue = (graph.add("Gather", pictures, _integers(channel), axis=1) for channel in range(3))
    parts = [graph.add("Mul", each, np.float32(share)) for each, share in zip((red, green, blue), LUMA_OF_RGB)]
    luma = drop_bits(graph.add("Add", graph.add("Add", graph.add("Add", *parts[:2]), parts[2]), np.float32(half)))
    yuv = [luma]
    for color, factor in ((blue, BLUENESS), (red, REDNESS)):
        beyond = graph.add("Mul", graph.add("Sub", color, luma), np.float32(factor))
        yuv.append(drop_bits(graph.add("Add", beyond, np.float32(center + half))))
    return graph.add("Clip", graph.add("Concat", *yuv, axis=1), np.float32(0), np.float32(255))


def _drop_bits(graph: GraphBuilder, value: str, bits: int) -> str:
    """Add a shift to the right, of int32 from 0; ONNX shifts unsigned numbers only."""
    return graph.add("Div", value, np.int32(1 << bits)) if bits else value


def _cast(graph: GraphBuilder, value: str, dtype: np.dtype) -> str:
    return graph.add("Cast", value, to=TensorProto.FLOAT if dtype == np.float32 else TensorProto.INT32)


def _integers(*values: int) -> np.ndarray:
    return np.array(values, np.int64)
