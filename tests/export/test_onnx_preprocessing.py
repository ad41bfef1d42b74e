from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from robostig.export.camera import add_preprocessing
from robostig.export.graph import GraphBuilder
from robostig.preprocessing import InputSpec, preprocess

NVIDIA = InputSpec(66, 200, crop_top=60 / 160, crop_bottom=25 / 160, color_space="yuv")
WHOLE = InputSpec(160, 320)


def run(frames: np.ndarray, spec: InputSpec) -> np.ndarray:
    """Preprocess by ONNX Runtime: (N, height, width, 3), as numbers are there."""
    graph = GraphBuilder("camera_")
    answer = add_preprocessing(graph, "frames", frames.shape[1:3], spec)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "preprocessing",
            [helper.make_tensor_value_info("frames", TensorProto.UINT8, ["N", *frames.shape[1:]])],
            [helper.make_tensor_value_info(answer, TensorProto.FLOAT, ["N", 3, spec.height, spec.width])],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=7,
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"frames": frames})[0].transpose(0, 2, 3, 1)


@pytest.mark.parametrize(
    ("size", "spec"),
    [
        ((160, 320), NVIDIA),  # the simulator's, reduced
        ((160, 320), WHOLE),  # as it is
        ((160, 320), InputSpec(160, 320, color_space="yuv")),
        ((120, 160), NVIDIA),  # donkeycar's, enlarged in integers
        ((120, 160), WHOLE),
        ((100, 640), WHOLE),  # lower, and wider
        ((320, 640), WHOLE),  # four pixels become one
        ((480, 640), WHOLE),  # six pixels become one
        ((720, 1280), NVIDIA),
        ((7, 5), InputSpec(3, 2, color_space="yuv")),
    ],
)
def test_every_pixel_is_the_one_that_the_pilot_makes(size, spec):
    frames = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    np.testing.assert_array_equal(run(frames, spec), np.stack([preprocess(frame, spec) for frame in frames]))


def test_every_colour_is_the_one_that_the_pilot_makes():
    grid = np.stack(np.meshgrid(*[np.arange(0, 256, 5)] * 3), -1).astype(np.uint8).reshape(1, 52, -1, 3)
    spec = InputSpec(*grid.shape[1:3], color_space="yuv")
    np.testing.assert_array_equal(run(grid, spec)[0], preprocess(grid[0], spec))


def test_frames_too_low_for_the_crop_are_refused():
    with pytest.raises(ValueError, match="1 rows high has none left"):
        add_preprocessing(GraphBuilder(""), "frames", (1, 320), InputSpec(4, 4, crop_top=0.6))
