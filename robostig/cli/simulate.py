"""``robostig simulate``: a client that behaves as Udacity's simulator."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from robostig.cli.arguments import Commands, UsageError, add_command, add_json, check_usage
from robostig.cli.output import print_json, print_table

if TYPE_CHECKING:
    from robostig.driving.simulator import SimulatedDrive

__all__ = ["add", "run"]


def add(commands: Commands) -> None:
    """Add the command and its flags."""
    command = add_command(
        commands,
        "simulate",
        run,
        "connect to a driving server as Udacity's simulator does, and let it drive the built-in track",
        "robostig simulate --connect ws://127.0.0.1:4567 --track mountain:17 --laps 2",
    )
    command.add_argument(
        "--connect", metavar="ADDRESS", default="ws://127.0.0.1:4567", help="the server; default ws://127.0.0.1:4567"
    )
    command.add_argument("--track", metavar="NAME", default="lake", help="lake, mountain:17 and the like; default lake")
    command.add_argument("--direction", choices=("forward", "backward"), default="forward", help="default forward")
    command.add_argument(
        "--laps", type=float, default=1.0, help="for the model to drive; may be a part of one; default 1"
    )
    command.add_argument(
        "--manual-seconds", metavar="S", type=float, default=0.0, help="let a human drive so long at first; default 0"
    )
    command.add_argument("--decimal-comma", action="store_true", help="write numbers as a German computer does")
    command.add_argument("--real-time", action="store_true", help="15 frames a second, not as many as are answered")
    add_json(command, "the scores")


def run(arguments: argparse.Namespace) -> None:
    """Run it."""
    import asyncio

    from robostig.driving.simulator import parse_address, simulate
    from robostig.simulation import Simulation, load_track

    if not 0.0 < arguments.laps <= 1000.0 or not 0.0 <= arguments.manual_seconds <= 3600.0:
        raise UsageError("laps are more than 0 and up to 1,000, manual seconds 0 to 3,600")
    address = check_usage(lambda: parse_address(arguments.connect))
    track = check_usage(lambda: load_track(arguments.track, direction=arguments.direction))
    driven = asyncio.run(
        simulate(
            address,
            Simulation(track),
            laps=arguments.laps,
            manual_s=arguments.manual_seconds,
            decimal_comma=arguments.decimal_comma,
            real_time=arguments.real_time,
        )
    )
    if arguments.json:
        print_json({"closed_loop": driven.to_dict()})
    else:
        _print_simulated(driven)
    if not driven.finished:
        raise ValueError(
            f"the car came no further for a minute: the model drove {driven.laps:.2f} of {arguments.laps:g} laps, and "
            "the scores are of these alone; see what the server says"
        )


def _print_simulated(driven: SimulatedDrive) -> None:
    rows = [["laps", f"{driven.laps:.2f}", f"{driven.distance_m:,.0f} m of {driven.track}, {driven.direction}"]]
    if driven.autonomy is not None:
        each = driven.distance_per_intervention_m
        rows += [
            ["interventions", f"{driven.interventions}", "" if each is None else f"one in {each:,.0f} m"],
            ["autonomy", f"{driven.autonomy:.2f}", "percent"],
            ["lateral_rmse", f"{driven.lateral_rmse_m:.3f}", "m from the lane's middle"],
            ["lateral_max", f"{driven.lateral_max_m:.3f}", "m"],
        ]
    rows += [
        ["simulated", f"{driven.simulated_s:.1f}", f"s, {driven.frames:,} frames in {driven.elapsed_s:.1f} s"],
        [
            "answer",
            f"{driven.answer_ms['p50']:.1f}",
            f"ms (median; {driven.answer_ms['p99']:.1f} ms at the 99th percentile)",
        ],
    ]
    print_table(rows)
