"""``robostig record``: the expert's drive on the built-in track."""

from __future__ import annotations

import argparse
import shlex

from robostig.cli.arguments import Commands, add_command, add_json, add_track, check_usage
from robostig.cli.output import print_json
from robostig.simulation import parse_tracks

__all__ = ["add", "run"]


def add(commands: Commands) -> None:
    """Add the command and its flags."""
    command = add_command(
        commands,
        "record",
        run,
        "record the expert on the built-in track, as Udacity's simulator records a human",
        "robostig record recording --track lake,mountain:3 --laps 2 --direction both --seed 7",
    )
    command.add_argument("out", metavar="OUT", help="folder for driving_log.csv and IMG/; it must not be there yet")
    add_track(command, "default lake", default="lake")
    command.add_argument("--seed", type=int, default=0, help="of the driver's hands; the same gives the same files")
    command.add_argument(
        "--no-recoveries", action="store_true", help="leave out how the driver comes back from the edge of the lane"
    )
    add_json(command, "what was recorded")


def run(arguments: argparse.Namespace) -> None:
    """Run it."""
    from robostig.driving_log import read_driving_log
    from robostig.simulation import record

    tracks = check_usage(lambda: parse_tracks(arguments.track, arguments.direction))
    folder = record(
        arguments.out,
        tracks,
        laps=arguments.laps,
        seed=arguments.seed,
        speed_mph=arguments.speed,
        recoveries=not arguments.no_recoveries,
    )
    log = read_driving_log(folder)
    if arguments.json:
        minutes = float(log.driving_clock()[-1]) / 60.0
        print_json({"folder": str(folder), "rows": len(log), "minutes": minutes, "tracks": list(map(str, tracks))})
        return
    print(f"{log.describe()}\ntrain on it: robostig train --data {shlex.quote(str(folder))}")
