"""``robostig compare``: several models, a choice, and a report that says why."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, List

from robostig.cli.arguments import RECORDED, Commands, add_command, add_data, add_json, check_usage, read_config
from robostig.cli.output import print_json, print_table
from robostig.config import TrainingConfig
from robostig.metrics import DEGREES
from robostig.roads import RECIPE
from robostig.simulation import check_laps, parse_tracks

__all__ = ["add", "run"]

COMPARED = "nvidia,comma"  # all that there are would take an hour


def add(commands: Commands) -> None:
    """Add the command and its flags."""
    command = add_command(
        commands,
        "compare",
        run,
        "train several models on a recorded drive, let them drive, choose the one that should, and show why",
        "robostig compare --models nvidia,comma --out out",
    )
    add_data(
        command,
        f"{RECORDED}; without it, the expert is "
        "recorded on the built-in track, and "
        f"some defaults are others: {', '.join(f'{name} {value}' for name, value in RECIPE.items())}",
        required=False,
    )
    command.add_argument(
        "--track",
        metavar="NAMES",
        help="roads that all models drive, both ways: names with commas between, or none; default six that are in no "
        "recording of ours",
    )
    command.add_argument("--laps", type=float, default=1.0, help="of each road, both ways; default 1")
    command.add_argument(
        "--models", metavar="NAMES", default=COMPARED, help=f"names with commas between; default {COMPARED}"
    )
    command.add_argument(
        "--out", metavar="DIR", default="out", help="for artifacts, comparison and report; default out"
    )
    add_json(command, "the comparison")
    TrainingConfig.add_arguments(command, leave_out=["model"])


def run(arguments: argparse.Namespace) -> None:
    """Run it."""
    from robostig.comparison import CAVEAT, COMPARISON, check_models, compare
    from robostig.report import write_report

    config = read_config(arguments, RECIPE if arguments.data is None else {})
    names = [name.strip() for name in arguments.models.split(",")]
    check_usage(lambda: check_models(names, pretrained=config.pretrained))
    check_usage(lambda: check_laps(arguments.laps))
    out = Path(arguments.out)
    tracks = None
    if arguments.track is not None:
        is_none = arguments.track.strip().lower() == "none"
        tracks = [] if is_none else check_usage(lambda: parse_tracks(arguments.track, "both"))
    comparison = compare(arguments.data, names, out, config, tracks=tracks, laps=arguments.laps)
    report = write_report(comparison, out)
    if arguments.json:
        print_json(comparison.to_dict(Path()))  # artifacts as they are named from here
        return
    rows = [["model", "autonomy", "off the middle", "rmse", "of the mean's", "latency p50", "trained in"]]
    for name, model in comparison.models.items():
        scores = model.open_loop.scores
        rows.append(
            [
                name,
                *_show_driving(model.closed_loop),
                f"{scores['rmse']:.4f} ({scores['rmse'] * DEGREES:.2f} deg)",
                f"{scores['rmse_to_mean_baseline']:.2f}" if scores["rmse_to_mean_baseline"] is not None else "-",
                f"{model.open_loop.latency_ms['p50']:.1f} ms",
                f"{model.training.seconds:.0f} s",
            ]
        )
    rows.append(["always zero", *_show_driving(comparison.blind), "", "", "", ""])
    print_table(rows)
    print(f"\n{comparison.reason} {CAVEAT}\n\nnumbers  {out / COMPARISON}\nreport   {report}")


def _show_driving(closed_loop: Any) -> List[str]:
    if closed_loop is None:
        return ["-", "-"]
    return [f"{closed_loop.scores['autonomy']:.1f} %", f"{closed_loop.scores['lateral_rmse_m']:.2f} m"]
