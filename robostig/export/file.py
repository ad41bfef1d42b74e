"""The file: an artifact's network, preprocessing if wanted, and what one has to know to use it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping, Optional, Tuple, Union

import numpy as np
import onnx
from onnx import TensorProto, helper

import robostig
from robostig import camera
from robostig._files import make_folder, replace_file
from robostig.artifact import Artifact, load_artifact
from robostig.driving_log import DrivingLog, read_picture
from robostig.export.camera import add_preprocessing
from robostig.export.graph import GraphBuilder
from robostig.export.network import DATA, OPSET, convert_network
from robostig.export.verification import FRAMES, Agreement, compare_with_pilot
from robostig.metrics import DEGREES
from robostig.pilot import Pilot
from robostig.preprocessing import InputSpec, parse_size, preprocess
from robostig.simulation import Simulation, load_track, steer_towards

__all__ = ["OPSET", "STEERING", "Export", "export_onnx"]

Size = Tuple[int, int]  # height and width in pixels

STEERING = "steering"  # what the file calls its output
IR_VERSION = 7  # of the file's layout: ONNX 1.8's, as OPSET
TRACK, TRACK_FRAMES, STEPS_BETWEEN = "lake", 60, 15  # a frame a second for a minute, over bends of both kinds


@dataclass(frozen=True)
class Export:
    """A network that was exported, and compared with the pilot.

    Parameters
    ----------
    path
        The file.
    model
        The registered name of the network.
    parameters
        How many the network has in the file.
    input
        ``name``, ``type``, ``shape``, ``range``, ``color_space`` of its input, and what was cut off the frames.
    compared_on
        Where the frames came from, in words.
    agreement
        How near its steering is to the pilot's.
    """

    path: Path
    model: str
    parameters: int
    input: Dict[str, Any]
    compared_on: str
    agreement: Agreement

    @property
    def snippet(self) -> str:
        """A few lines of Python that steer with it."""
        shape = ", ".join(map(str, self.input["shape"]))
        return (
            "import numpy as np, onnxruntime\n"
            f"session = onnxruntime.InferenceSession({str(self.path)!r}, providers=['CPUExecutionProvider'])\n"
            f"frames = np.zeros((1, {shape[3:]}), np.{self.input['type']})  # {self.input['description']}\n"
            f"steering = session.run(None, {{{FRAMES!r}: frames}})[0][:, 0]  # -1..1, 1 = {DEGREES:g} degrees right"
        )

    def to_dict(self) -> Dict[str, Any]:
        """Return it as plain values, for JSON."""
        return {
            "file": str(self.path),
            "bytes": self.path.stat().st_size,
            "format": "onnx",
            "opset": OPSET,
            "model": self.model,
            "parameters": self.parameters,
            "input": self.input,
            "compared_on": self.compared_on,
            **asdict(self.agreement),
        }


def export_onnx(
    folder: Union[str, Path],
    path: Union[str, Path],
    *,
    with_preprocessing: bool = False,
    frame_size: Optional[Size] = None,
    log: Optional[DrivingLog] = None,
) -> Export:
    """Write an artifact's network as an ONNX file, if that steers as the pilot does.

    Parameters
    ----------
    folder
        Of an artifact.
    path
        The file to write; one that is there is replaced.
    with_preprocessing
        Whether the file takes a camera's frames, which it crops, resizes and converts; else it takes what the network
        takes. Default False.
    frame_size
        Height and width of these frames; those of the frames that the network learned from if None.
    log
        On whose frames the two are compared; on the built-in track's if None.

    Returns
    -------
    Export
        What was written.

    Raises
    ------
    FileNotFoundError, ValueError
        If the artifact cannot be used, a picture of the log cannot be decoded or is of another size, the network
        cannot be exported, or it steers otherwise than the pilot. Then nothing is written.
    OSError
        If the file cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file to write, such as {path / 'model.onnx'}")
    make_folder(path.absolute().parent)
    artifact = load_artifact(folder)
    size = None
    if with_preprocessing:
        size = frame_size or _find_frame_size(artifact.facts)
    with replace_file(path) as file:
        model, parameters = _make_model(artifact, size)
        file.write(model.SerializeToString(deterministic=True))
        file.flush()
        pictures = () if log is None else log.pictures["center"]
        agreement = compare_with_pilot(
            Path(file.name),
            Pilot(artifact.net, artifact.spec, facts=artifact.facts),
            _drive(size) if log is None else map(read_picture, pictures),
            frame_size=size,
            total=len(pictures) or TRACK_FRAMES,
        )
    return Export(
        path,
        artifact.model,
        parameters,
        _describe_input(artifact.spec, size),
        f"the built-in track {TRACK}" if log is None else log.where,
        agreement,
    )


def _find_frame_size(facts: Mapping[str, Any]) -> Size:
    """Return height and width of the frames that a model learned from; the simulator's where that is not known."""
    data = facts.get("data")  # of a model that was saved by hand, whatever was written
    size = data.get("frame_size") if isinstance(data, dict) else None
    if size is None:
        return camera.HEIGHT, camera.WIDTH
    return parse_size("x".join(map(str, size)) if isinstance(size, list) else str(size))


def _make_model(artifact: Artifact, frame_size: Optional[Size]) -> Tuple[onnx.ModelProto, int]:
    """Return the whole graph with what is known of it, and the number of the network's parameters."""
    spec, before, after = artifact.spec, GraphBuilder("camera_"), GraphBuilder("")
    network, parameters = convert_network(artifact)
    takes = FRAMES if frame_size is None else add_preprocessing(before, FRAMES, frame_size, spec)
    for node in network.node:
        node.input[:] = [takes if name == DATA else name for name in node.input]
    after.add("Clip", network.output[0].name, np.float32(-1), np.float32(1), output=STEERING)
    described = _describe_input(spec, frame_size)
    kind = TensorProto.FLOAT if frame_size is None else TensorProto.UINT8
    used = {name for node in network.node for name in node.input}  # the exporter leaves constants behind
    graph = helper.make_graph(
        [*before.nodes, *network.node, *after.nodes],
        artifact.model,
        [helper.make_tensor_value_info(FRAMES, kind, described["shape"])],
        [helper.make_tensor_value_info(STEERING, TensorProto.FLOAT, ["N", 1])],
        [*before.constants, *(each for each in network.initializer if each.name in used), *after.constants],
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name=robostig.__name__,
        producer_version=robostig.__version__,
        doc_string=f"{artifact.model}, a network that steers by what a camera sees: {described['description']}",
    )
    facts = artifact.facts
    output = {"shape": ["N", 1], "range": [-1, 1], "unit": f"full lock, {DEGREES:g} degrees; right is positive"}
    about = {
        "model": artifact.model,
        "reference": facts.get("reference", ""),
        "created": facts.get("created", ""),
        FRAMES: described,
        STEERING: output,
        "artifact_sha256": facts["files"],
        "scores": facts.get("scores", {}),
    }
    texts = {name: each if isinstance(each, str) else json.dumps(each) for name, each in about.items()}
    helper.set_model_props(model, texts)
    return model, parameters


def _describe_input(spec: InputSpec, frame_size: Optional[Size]) -> Dict[str, Any]:
    """Return what the file takes, for programs and, in words, for people."""
    if frame_size is not None:
        shape, kind, colors = ["N", *frame_size, 3], "uint8", "rgb"
        crop: Dict[str, float] = {}
    else:
        shape, kind, colors = ["N", 3, spec.height, spec.width], "float32", spec.color_space
        crop = {"crop_top": spec.crop_top, "crop_bottom": spec.crop_bottom}
    described = f"({', '.join(map(str, shape))}) {kind}, {colors.upper()}, 0..255"
    return {"name": FRAMES, "type": kind, "shape": shape, "range": [0, 255], "color_space": colors, **crop,
            "description": described}  # fmt: skip


def _drive(frame_size: Optional[Size]) -> Iterator[np.ndarray]:
    """Give what the expert sees on the built-in track, in a camera's size."""
    spec = InputSpec(*(frame_size or (camera.HEIGHT, camera.WIDTH)))
    drive = Simulation(load_track(TRACK))
    for step in range(TRACK_FRAMES * STEPS_BETWEEN):
        if step % STEPS_BETWEEN == 0:
            yield preprocess(drive.look(), spec)
        drive.step(steer_towards(drive.car, drive.track.lane, drive.place))
