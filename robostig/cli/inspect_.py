"""``robostig inspect``: what a recording holds. Python has an ``inspect`` of its own, hence the underscore."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, List, Tuple

from robostig._files import make_folder
from robostig.cli.arguments import RECORDED, Commands, UsageError, add_command, add_json, read_config
from robostig.cli.output import print_json, print_table
from robostig.config import TrainingConfig
from robostig.metrics import DEGREES

if TYPE_CHECKING:
    from robostig.inspection import Inspection

__all__ = ["add", "run"]

SPLITTING = ("validation_fraction", "stretch_s", "gap_s")  # settings that say which rows are trained on
SHEETS = (".png", ".pdf", ".svg")
LEGS, PLACES = 8, 5  # printed at most


def add(commands: Commands) -> None:
    """Add the command and its flags."""
    command = add_command(
        commands,
        "inspect",
        run,
        "look at a recorded drive: time, laps, labels, every picture's faults, and what training would leave out",
        "robostig inspect recording --out inspect.png",
    )
    command.add_argument("recording", metavar="RECORDING", nargs="+", help=f"{RECORDED}; several become one")
    command.add_argument("--out", metavar="FILE", help="draw it, too: on one sheet, as .png, .pdf or .svg")
    add_json(command, "what was found")
    TrainingConfig.add_arguments(
        command, leave_out=[each.name for each in fields(TrainingConfig) if each.name not in SPLITTING]
    )


def run(arguments: argparse.Namespace) -> None:
    """Run it."""
    config = read_config(arguments)
    out = None if arguments.out is None else Path(arguments.out)
    if out is not None:  # what can be wrong with the name shows before the first picture
        if out.suffix.lower() not in SHEETS or out.is_dir():
            raise UsageError(f"--out is {arguments.out}; name a file that ends with {', '.join(SHEETS)}")
        make_folder(out.parent)
    from robostig.inspection import inspect_recording

    inspection = inspect_recording(arguments.recording, config)
    if out is not None:
        from robostig.figures import save_figure
        from robostig.sheet import draw_sheet

        save_figure(draw_sheet(inspection), out)
    if arguments.json:
        print_json(inspection.to_dict())
        return
    for rows in (_list_contents, _list_legs, _list_faults, _list_use):
        print_table(rows(inspection))
        print()
    if inspection.stop:
        print(f"training would stop, unless --on-error skip leaves such rows out: {inspection.stop}\n")
    if inspection.fault:
        print(f"training would stop: {inspection.fault}\n")
    words = " ".join(map(shlex.quote, arguments.recording))
    print(f"picture  {out}" if out is not None else f"as a picture: robostig inspect {words} --out inspect.png")


def _list_contents(inspection: Inspection) -> List[List[str]]:
    """Return a table of what a recording holds."""
    log, labels = inspection.log, inspection.labels
    drives = f" of {len(log.drives):,} drives" if len(log.drives) > 1 else ""
    rate = "" if inspection.rows_per_second is None else f", {inspection.rows_per_second:.1f} rows a second"
    pauses = [pause.seconds for pause in inspection.pauses if pause.seconds > 0.0]
    rows = [
        ["recording", f"{log.where} ({log.format})"],
        ["rows", f"{len(log):,}{drives}" + (f"; {len(log.skipped):,} more are left out" if log.skipped else "")],
        ["time", f"{inspection.seconds / 60.0:.1f} minutes of driving{rate}"],
    ]
    if pauses:
        rows.append(["pauses", f"{len(pauses):,} of more than a second, of {max(pauses):,.1f} s at most"])
    for camera, sizes in inspection.sizes.items():
        counts = ", ".join(f"{count:,} of {height}x{width}" for (height, width), count in sizes.items())
        lacking = len(log) - int(log.locate_pictures(camera).sum())
        rows.append([camera, f"pictures: {counts or 'none'}" + (f"; {lacking:,} rows have none" if lacking else "")])
    low, high, mean, std = (DEGREES * each for each in (labels.low, labels.high, labels.mean, labels.std))
    rows += [
        ["steering", f"{low:.1f} to {high:.1f} degrees, {labels.distinct:,} different; mean {mean:.2f}, std {std:.2f}"],
        ["", f"{100.0 * labels.zero:.1f} % exactly 0, {100.0 * labels.straight:.1f} % within a degree of it"],
    ]
    if log.speed_mph.any():
        rows.append(["speed", f"{log.speed_mph.min():.1f} to {log.speed_mph.max():.1f} mph"])
    return rows


def _list_legs(inspection: Inspection) -> List[List[str]]:
    """Return a table of what was driven without a long pause; of many, the longest."""
    legs, names = inspection.legs, len(inspection.log.drives) > 1
    shown = sorted(sorted(legs, key=lambda leg: leg.seconds)[-LEGS:], key=lambda leg: leg.start)
    rows = [["without a long pause", "drive" if names else "", "minutes", "steering on average", "laps"]]
    for leg in shown:
        laps = "-" if leg.laps is None else f"{leg.laps:.1f}, of {leg.lap_rows:,} rows each"
        angle = f"{leg.mean_steering * DEGREES:.2f} degrees: {leg.direction}"
        rows.append([f"rows {leg.start:,} to {leg.stop - 1:,}", leg.drive, f"{leg.seconds / 60.0:.1f}", angle, laps])
    if len(shown) < len(legs):
        rows.append([f"and {len(legs) - len(shown):,} shorter ones", "", "", "", ""])
    return rows if names else [[first, *rest] for first, _, *rest in rows]


def _list_faults(inspection: Inspection) -> List[List[str]]:
    """Return a table of all that is wrong with a recording, or what was looked for in vain."""
    log = inspection.log
    found: List[Tuple[str, int, List[str]]] = []
    for kind in inspection.count_skipped():
        lines = [each for each in log.skipped if each.kind == kind]
        places = [f"line {each.row}" + (f" of {each.log}" if each.log else "") for each in lines]
        found.append((f"rows left out: {kind}", len(places), places))
    for kind in inspection.count_bad_pictures():
        places = [f"{bad.camera} {bad.row:,}" for bad in inspection.bad_pictures if bad.kind == kind]
        found.append((f"pictures: {kind}", len(places), places))
    copies = [f"{camera} {row:,}" for camera, row in inspection.copies]
    frozen = [f"{run.camera} {run.start:,} to {run.stop - 1:,}" for run in inspection.frozen]
    backwards = [f"{pause.row:,}" for pause in inspection.pauses if pause.seconds < 0.0]
    found += [
        ("times that a camera hangs", len(frozen), frozen),
        ("pictures that are copies of earlier ones", len(copies), copies),
        ("held-out rows whose picture is trained on", inspection.leaks, []),
        ("pictures that no row names", log.unused_pictures, []),
        ("times that the clock goes backwards", len(backwards), backwards),
        ("rows that come late", inspection.late_rows, []),
    ]
    rows = [["fault", "found", "where (rows count from 0)"]]
    for name, count, places in found:
        if count:
            more = ", ..." if len(places) > PLACES else ""
            rows.append([name, f"{count:,}", ", ".join(places[:PLACES]) + more])
    nothing = "no faults: every picture is there, whole, of the usual size, neither dark nor over-exposed nor a copy"
    return rows if len(rows) > 1 else [[nothing]]


def _list_use(inspection: Inspection) -> List[List[str]]:
    """Return a table of what training would do with the rows."""
    log, split = inspection.log, inspection.split
    total = len(log) + len(log.skipped)
    uses = [("left out by the reader", len(log.skipped), "")]
    if split is not None:
        blind = f"always the training mean: RMSE {DEGREES * (inspection.rmse_mean_baseline or 0.0):.2f}"
        uses = [
            ("trained on", len(split.train), _describe_steering(log.steering[split.train])),
            ("held out", len(split.validation), f"{_describe_steering(log.steering[split.validation])}; {blind}"),
            ("left out, too near to these", split.left_out, ""),
            *uses,
        ]
    return [
        ["in training", "rows", "share", "steering in degrees"],
        *([name, f"{count:,}", f"{100.0 * count / total:.1f} %", steering] for name, count, steering in uses),
    ]


def _describe_steering(steering: Any) -> str:
    low, high, mean = (DEGREES * float(each) for each in (steering.min(), steering.max(), steering.mean()))
    return f"{low:.1f} to {high:.1f}, mean {mean:.2f}"
