"""``robostig train``: one model, from a recording to its artifact."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from robostig.cli.arguments import RECORDED, Commands, add_command, add_data, add_json, check_usage, read_config
from robostig.cli.output import print_json, print_scores
from robostig.config import TrainingConfig

__all__ = ["add", "run"]


def add(commands: Commands) -> None:
    """Add the command and its flags."""
    command = add_command(
        commands,
        "train",
        run,
        "train one model on a recorded drive and write its artifact",
        "robostig train --model comma --data recording --out out/comma --epochs 30",
    )
    add_data(
        command,
        f"{RECORDED}; or with train_X.npy and the like",
    )
    command.add_argument("--validation", metavar="DIR", help="drive to hold out; else stretches of the first are")
    command.add_argument("--out", metavar="DIR", help="where the artifact goes; default out/MODEL")
    add_json(command, "the scores")
    TrainingConfig.add_arguments(command)


def run(arguments: argparse.Namespace) -> None:
    """Run it."""
    config = read_config(arguments)
    from robostig.models import get_spec
    from robostig.pipeline import read_recording, train_model

    check_usage(lambda: get_spec(config.model, pretrained=config.pretrained))
    recording = read_recording(arguments.data, config, validation_folder=arguments.validation)
    logging.info(recording.describe())
    trained = train_model(config, recording, arguments.out or Path("out") / config.model)
    if arguments.json:
        print_json({**trained.summarize(), "artifact": str(trained.artifact)})
        return
    print_scores(trained.open_loop.scores, trained.open_loop.latency_ms)
    print(f"artifact  {trained.artifact}")
