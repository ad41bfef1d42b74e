"""``robostig evaluate``: a driver's scores, on a recording and on roads."""

from __future__ import annotations

import argparse
import contextlib
import logging
import shlex
from typing import Any, Callable, Dict, Optional, Sequence, Tuple

from robostig.cli.arguments import (
    DRIVE_DEFAULTS,
    RECORDED,
    WEIGHTS,
    Commands,
    UsageError,
    add_command,
    add_data,
    add_dtype,
    add_json,
    add_on_error,
    add_track,
    check_drive,
    check_dtype,
    check_usage,
    list_places,
)
from robostig.cli.output import print_json, print_scores, print_table
from robostig.simulation import parse_tracks

__all__ = ["add", "run"]


def add(commands: Commands) -> None:
    """Add the command and its flags."""
    command = add_command(
        commands,
        "evaluate",
        run,
        "score a driver on a recorded drive (--data), on roads of the built-in track (--track), or both",
        "robostig evaluate out/comma --track mountain:17 --direction both --video drive.webm",
    )
    command.add_argument(
        "artifact",
        metavar="ARTIFACT",
        nargs="?",
        help=f"folder of a trained model, as train and compare write, or {WEIGHTS}",
    )
    command.add_argument("--endpoint", metavar="NAME", help="score a SageMaker endpoint, in place of an artifact")
    command.add_argument(
        "--constant", metavar="STEERING", type=float, help="score a driver who never looks: always this, -1 to 1"
    )
    add_data(command, RECORDED, required=False)
    add_track(command, "drive it and count interventions")
    command.add_argument(
        "--delay", metavar="S", type=float, default=0.0, help="seconds between an answer and the wheels; default 0"
    )
    command.add_argument(
        "--video", metavar="FILE", help="film it: .webm (for browsers), .mp4, .avi, .mkv, or .webp (small, for pages)"
    )
    command.add_argument(
        "--rows",
        choices=("auto", "held-out", "all"),
        default="auto",
        help="auto (default): the held-out stretches if the model was trained on this drive, else all",
    )
    command.add_argument(
        "--keep", action="store_true", help="note the scores in the ARTIFACT's facts and card, beside those it has"
    )
    add_dtype(command)
    add_on_error(command)
    add_json(command, "the scores")


def run(arguments: argparse.Namespace) -> None:
    """Run it."""
    _check_evaluate(arguments)
    from robostig.video import VideoWriter

    results: Dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        # Whatever can be wrong with the words shows before the first score.
        tracks, watch = [], None
        if arguments.track is not None:
            tracks = check_usage(lambda: parse_tracks(arguments.track, arguments.direction))
        if arguments.keep:
            _check_keep(arguments.artifact)
        driver, label = _find_driver(arguments)
        if arguments.video is not None:
            watch = stack.enter_context(VideoWriter(arguments.video, label)).write
        if arguments.data is not None:
            results.update(_evaluate_on_data(arguments, driver, label))
        if tracks:
            results["closed_loop"] = _evaluate_on_tracks(arguments, driver, label, tracks, watch)
    if arguments.video is not None and not arguments.json:
        print(f"\nvideo  {arguments.video}")
    if arguments.json:
        print_json(results)
    if arguments.keep:  # last: whatever goes wrong there, the scores have been told
        _keep_scores(arguments, results)


def _check_evaluate(arguments: argparse.Namespace) -> None:
    """Raise UsageError for words of evaluate that do not go together."""
    given = [each for each in (arguments.artifact, arguments.endpoint, arguments.constant) if each is not None]
    if len(given) != 1:
        raise UsageError("name one driver: an ARTIFACT, or --endpoint NAME, or --constant STEERING")
    if arguments.data is None and arguments.track is None:
        raise UsageError("say what to score it on: --data DIR, --track NAMES, or both")
    check_drive(arguments, DRIVE_DEFAULTS)
    if arguments.rows != "auto" and (arguments.artifact is None or arguments.data is None):
        raise UsageError("--rows is about what an ARTIFACT was trained on; give one, and --data DIR")
    if arguments.keep and arguments.artifact is None:
        raise UsageError("--keep notes the scores in an ARTIFACT; give one")
    if arguments.keep and arguments.dtype != "float32":
        raise UsageError("--keep notes what an ARTIFACT scores as it is; leave out one of --keep and --dtype")
    check_dtype(arguments)
    if arguments.constant is not None and not -1.0 <= arguments.constant <= 1.0:
        raise UsageError(f"--constant is {arguments.constant:g}; a steering is between -1 and 1")


def _check_keep(artifact: str) -> None:
    """Raise UsageError for an artifact that is not the user's to add to."""
    from robostig.artifact import WEIGHTS, find_artifact

    folder = find_artifact(artifact)
    if folder.resolve().parent == WEIGHTS:
        raise UsageError(
            f"--keep would change what came with RoboStig; score a copy: cp -r {shlex.quote(str(folder))} "
            f"my-{folder.name}"
        )


def _keep_scores(arguments: argparse.Namespace, results: Dict[str, Any]) -> None:
    """Note scores in an artifact, by what they were found on; earlier ones found on the same are replaced."""
    from robostig.artifact import add_facts, find_artifact, read_facts
    from robostig.driving_log import name_places

    folder, found, where = find_artifact(arguments.artifact), dict(results), {}
    driven = found.pop("closed_loop", None)
    if found:
        where[f"the recording {', '.join(name_places(list_places(arguments.data)))}"] = found
    if driven:
        late = f", {arguments.delay:g} s late" if arguments.delay else ""
        road = f"{arguments.track} {arguments.direction}, {arguments.laps:g} laps at {arguments.speed:g} mph{late}"
        where[f"the built-in track, {road}"] = {"closed_loop": driven}
    before = read_facts(folder).get("elsewhere")
    add_facts(folder, {"elsewhere": {**(before if isinstance(before, dict) else {}), **where}})
    logging.info("noted in %s", folder)


def _evaluate_on_data(arguments: argparse.Namespace, driver: Any, label: str) -> Dict[str, Any]:
    from robostig.pipeline import evaluate_artifact, evaluate_driver

    if arguments.artifact is not None:
        open_loop, which = evaluate_artifact(
            arguments.artifact,
            arguments.data,
            rows=arguments.rows,
            on_error=arguments.on_error,
            dtype=arguments.dtype,
        )
    else:
        open_loop, which = evaluate_driver(driver, arguments.data, on_error=arguments.on_error, label=label)
    if not arguments.json:
        print(f"scored on {which}")
        print_scores(open_loop.scores, open_loop.latency_ms)
    return {"open_loop": open_loop.scores, "latency_ms": open_loop.latency_ms, "rows": which}


def _evaluate_on_tracks(
    arguments: argparse.Namespace,
    driver: Any,
    label: str,
    tracks: Sequence[Any],
    watch: Optional[Callable[[Any], None]],
) -> Dict[str, Any]:
    from robostig.closed_loop import evaluate_closed_loop

    summary = evaluate_closed_loop(
        driver,
        tracks,
        laps=arguments.laps,
        speed_mph=arguments.speed,
        delay_s=arguments.delay,
        watch=watch,
        label=label,
    ).summarize()
    if not arguments.json:
        _print_drives(summary)
    return summary


def _find_driver(arguments: argparse.Namespace) -> Tuple[Any, str]:
    """Return what drives, and what to call it."""
    if arguments.constant is not None:
        from robostig.closed_loop import Constant

        return Constant(arguments.constant), f"always {arguments.constant:g}"
    if arguments.endpoint is not None:
        from robostig.endpoint import Endpoint

        return Endpoint(arguments.endpoint).steer, arguments.endpoint
    from robostig.backend import choose_contexts
    from robostig.pilot import Pilot

    pilot = Pilot.load(arguments.artifact, context=choose_contexts("auto")[0], dtype=arguments.dtype)
    return pilot, str(pilot.facts.get("model", "pilot"))


def _print_drives(summary: Dict[str, Any]) -> None:
    """Print a row for each drive, and one for all of them."""
    rows = [["track", "autonomy", "interventions", "metres to one", "off the middle", "at most", "whiteness", "expert"]]
    drives = summary["tracks"] if len(summary["tracks"]) == 1 else [*summary["tracks"], summary]
    for drive in drives:
        between = drive["distance_per_intervention_m"]
        rows.append(
            [
                f"{drive['track']} {drive['direction']}" if "track" in drive else "all",
                f"{drive['autonomy']:.1f} %",
                str(drive["interventions"]),
                "-" if between is None else f"{between:,.0f}",
                f"{drive['lateral_rmse_m']:.2f} m",
                f"{drive['lateral_max_m']:.2f} m",
                f"{drive['whiteness']:.1f} deg/s" if drive["whiteness"] is not None else "-",
                f"{drive['whiteness_expert']:.1f}",
            ]
        )
    print_table(rows)
    print(
        f"\n{summary['laps']:.1f} laps, {summary['distance_m'] / 1000.0:.1f} km, {summary['simulated_s']:.0f} "
        f"simulated seconds in {summary['elapsed_s']:.1f}"
    )
