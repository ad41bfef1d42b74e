"""``robostig export``: a model as one file for programs without MXNet."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from robostig.cli.arguments import (
    RECORDED,
    WEIGHTS,
    Commands,
    UsageError,
    add_command,
    add_data,
    add_json,
    add_on_error,
    check_usage,
)
from robostig.cli.output import print_json, print_table
from robostig.preprocessing import parse_size

__all__ = ["add", "run"]


def add(commands: Commands) -> None:
    """Add the command and its flags."""
    command = add_command(
        commands,
        "export",
        run,
        "write a trained model as one file that runs without MXNet and RoboStig, and check that it steers as the "
        "model does: with ONNX Runtime, in a car or in any framework's endpoint",
        "robostig export out/nvidia --with-preprocessing --data recording --out nvidia.onnx",
    )
    command.add_argument("artifact", metavar="ARTIFACT", help=f"folder of a trained model, or {WEIGHTS}")
    command.add_argument("--format", choices=("onnx",), default="onnx", help="of the file; default onnx")
    command.add_argument(
        "--with-preprocessing",
        action="store_true",
        help="the file takes a camera's frames, uint8 RGB, and crops, resizes and converts them as the model's pilot "
        "does; else it takes float32 pictures, ready for the network",
    )
    command.add_argument(
        "--frame-size",
        metavar="HxW",
        help="height and width of these frames; default those that the model learned from, or 160x320, the simulator's",
    )
    add_data(command, f"compare on these frames, not on the built-in track's; {RECORDED}", required=False)
    add_on_error(command)
    command.add_argument("--out", metavar="FILE", help="the file to write; default MODEL.onnx, in this folder")
    add_json(command, "what was written")


def run(arguments: argparse.Namespace) -> None:
    """Run it."""
    if arguments.frame_size is not None and not arguments.with_preprocessing:
        raise UsageError("--frame-size is about a camera's frames; add --with-preprocessing")
    frame_size = None if arguments.frame_size is None else check_usage(lambda: parse_size(arguments.frame_size))
    from robostig.artifact import find_artifact, read_facts
    from robostig.driving_log import read_driving_log
    from robostig.export import OPSET, export_onnx

    folder = find_artifact(arguments.artifact)
    out = arguments.out or f"{Path(read_facts(folder)['model']).name}.onnx"
    log = None if arguments.data is None else read_driving_log(arguments.data, on_error=arguments.on_error)
    exported = export_onnx(folder, out, with_preprocessing=arguments.with_preprocessing, frame_size=frame_size, log=log)
    if arguments.json:
        print_json(exported.to_dict())
        return
    agreement, size = exported.agreement, exported.path.stat().st_size
    took = agreement.latency_ms
    print_table(
        [
            ["model", f"{exported.model}, {exported.parameters:,} parameters"],
            ["takes", exported.input["description"]],
            ["compared", f"on {agreement.frames:,} frames of {exported.compared_on}"],
            ["difference", f"at most {agreement.max_difference:.1e}, on average {agreement.mean_difference:.1e}"],
            ["speed", f"{took['onnxruntime']:.2f} ms a frame on one thread; the model's pilot: {took['pilot']:.2f} ms"],
            ["file", f"{exported.path}, {size / 1e6:.2f} MB, ONNX operators {OPSET}"],
        ]
    )
    print(f"\nsteer with it:\n\n{textwrap.indent(exported.snippet, '    ')}")
    if not arguments.with_preprocessing:
        print(
            "\nits pictures are what robostig.preprocessing.preprocess makes of frames, channels first; with "
            "--with-preprocessing, a file takes the frames themselves"
        )
