"""``robostig drive``: the server that Udacity's simulator connects to."""

from __future__ import annotations

import argparse
import logging

from robostig.cli.arguments import WEIGHTS, Commands, UsageError, add_command, add_dtype, check_dtype, check_usage

__all__ = ["add", "run"]


def add(commands: Commands) -> None:
    """Add the command and its flags."""
    command = add_command(
        commands,
        "drive",
        run,
        "drive Udacity's simulator: the server that it connects to, with a live page for people",
        "robostig drive nvidia --set-speed 15 --record driven",
    )
    command.add_argument(
        "artifact", metavar="ARTIFACT", nargs="?", help=f"folder of the trained model that drives, or {WEIGHTS}"
    )
    command.add_argument("--endpoint", metavar="NAME", help="a SageMaker endpoint that drives, in place of an artifact")
    command.add_argument(
        "--set-speed", metavar="MPH", type=float, default=15.0, help="speed on a straight, up to 30; default 15"
    )
    add_dtype(command)
    command.add_argument("--record", metavar="DIR", help="write what is driven as a log that can be trained on")
    command.add_argument(
        "--host", default="127.0.0.1", help="address to listen at; default 127.0.0.1, 0.0.0.0 is every network"
    )
    command.add_argument(
        "--port", type=int, default=4567, help="default 4567, where the simulator connects to; 0 is any free one"
    )


def run(arguments: argparse.Namespace) -> None:
    """Run it."""
    from robostig.driving.speed import SpeedController

    if (arguments.artifact is None) == (arguments.endpoint is None):
        raise UsageError("name the ARTIFACT that drives, or an --endpoint; one of the two")
    check_dtype(arguments)
    check_usage(lambda: SpeedController(arguments.set_speed))
    if not 0 <= arguments.port <= 65535:
        raise UsageError(f"there is no port {arguments.port}; ports are 0 (any) to 65535")
    from robostig.driving.server import DrivingServer, serve

    if arguments.endpoint is not None:
        from robostig.endpoint import Endpoint

        name, steer = arguments.endpoint, Endpoint(arguments.endpoint).steer
    else:
        from robostig.backend import choose_contexts
        from robostig.pilot import Pilot

        pilot = Pilot.load(arguments.artifact, context=choose_contexts("auto")[0], dtype=arguments.dtype)
        name, steer = str(pilot.facts["model"]), pilot.steer
    server = DrivingServer(steer, name=name, set_speed_mph=arguments.set_speed, record=arguments.record)

    def announce(page: str) -> None:
        logging.info(
            "%s is ready: start the simulator in Autonomous Mode, and watch %s (Ctrl-C ends the drive)", name, page
        )

    serve(server, arguments.host, arguments.port, announce=announce)
    print(server.summarize())
