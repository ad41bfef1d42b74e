"""``robostig explain``: which pixels steer, and how right that is."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import textwrap
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Mapping, Sequence, Tuple

from robostig._files import make_folder, replace_file
from robostig.cli.arguments import (
    RECORDED,
    WEIGHTS,
    Commands,
    UsageError,
    add_command,
    add_data,
    add_json,
    add_on_error,
    add_track,
    check_drive,
    check_usage,
)
from robostig.cli.output import print_json, print_table
from robostig.metrics import DEGREES
from robostig.simulation import check_laps, parse_tracks

if TYPE_CHECKING:
    from robostig.evidence import Evidence, Scene
    from robostig.explanation import SaliencyMasker

    _Scenes = Tuple[List[Scene], List[Scene], Iterator[Scene], str]

__all__ = ["add", "run"]

EXPLANATION = "explanation.png"
EXPLAINED = 120  # frames that are measured


def add(commands: Commands) -> None:
    """Add the command and its flags."""
    command = add_command(
        commands,
        "explain",
        run,
        "show which pixels steer, by NVIDIA's own method for PilotNet, in a picture and a video, and how right that is",
        "robostig explain out/nvidia out/comma --track lake:101,mountain:101 --out explained --video looks.webm",
    )
    command.add_argument(
        "artifacts",
        metavar="ARTIFACT",
        nargs="+",
        help=f"folder of a trained model with convolutions, or {WEIGHTS}; several are shown side by side",
    )
    add_data(command, f"look at these frames; {RECORDED}", required=False)
    add_track(command, "look at what the expert sees there; its edges are known, so it is measured who looks at them")
    command.add_argument("--out", metavar="DIR", required=True, help="folder for explanation.png and explanation.json")
    command.add_argument(
        "--video",
        metavar="FILE",
        help="film it, too: .webm (for browsers), .mp4, .avi, .mkv, or .webp (small, for pages)",
    )
    command.add_argument(
        "--frames",
        metavar="N",
        type=int,
        default=5,
        help="in the picture, from the sharpest left to the sharpest right; 1 to 12, default 5",
    )
    add_on_error(command)
    add_json(command, "what was measured")


def run(arguments: argparse.Namespace) -> None:
    """Run it."""
    if (arguments.data is None) == (arguments.track is None):
        raise UsageError("say what to look at: --data DIR or --track NAMES, one of the two")
    check_drive(arguments, ("laps", "direction", "speed"))
    if not 1 <= arguments.frames <= 12:
        raise UsageError(f"--frames is {arguments.frames}; the picture shows 1 to 12 of them")
    tracks = []
    if arguments.track is not None:
        tracks = check_usage(lambda: parse_tracks(arguments.track, arguments.direction))
        check_usage(lambda: check_laps(arguments.laps))
    from robostig.evidence import film_scenes, highlight_scenes, measure
    from robostig.figures import draw_explanations, save_figure

    maskers, facts = _load_maskers(arguments.artifacts)
    if tracks:
        driver = "expert"
        scenes, chosen, film, where = _watch_expert(arguments, tracks)
    else:
        driver = "driver"
        scenes, chosen, film, where = _read_scenes(arguments, facts)
    out = make_folder(arguments.out)
    with contextlib.ExitStack() as stack:
        video = None
        if arguments.video is not None:  # whatever can be wrong with its name shows before the measuring
            from robostig.video import ExplanationVideo

            height, width = scenes[0].frame.shape[:2]
            video = stack.enter_context(ExplanationVideo(arguments.video, list(maskers), (height, width), driver))
        evidence = {name: measure(masker, scenes, label=name) for name, masker in maskers.items()}
        shown = {name: highlight_scenes(masker, chosen) for name, masker in maskers.items()}
        figure = draw_explanations(shown, [(scene.steering, scene.place) for scene in chosen], driver=driver)
        save_figure(figure, out / EXPLANATION)
        if video is not None:
            film_scenes(video, maskers, film)
    result = {
        "looked_at": where,
        "models": {
            name: {"artifact": folder, **each.to_dict()}
            for folder, (name, each) in zip(arguments.artifacts, evidence.items())
        },
        "shown": [
            {"place": scene.place, driver: scene.steering, **{name: shown[name][number][1] for name in shown}}
            for number, scene in enumerate(chosen)
        ],
    }
    with replace_file((out / EXPLANATION).with_suffix(".json"), "w") as file:
        file.write(json.dumps(result, indent=2, allow_nan=False) + "\n")
    if arguments.json:
        print_json(result)
        return
    print(f"looked at {where}")
    _print_evidence(evidence)
    print(f"\npicture  {out / EXPLANATION}" + (f"\nvideo    {arguments.video}" if video is not None else ""))


def _load_maskers(folders: Sequence[str]) -> Tuple[Dict[str, SaliencyMasker], List[Mapping[str, Any]]]:
    """Return what finds the pixels that steer each model, by its name, and the facts of each."""
    from robostig.artifact import load_artifact
    from robostig.backend import choose_contexts
    from robostig.explanation import SaliencyMasker

    context = choose_contexts("auto")[0]
    loaded = [load_artifact(folder, context) for folder in folders]
    names = [artifact.model for artifact in loaded]
    names = list(folders) if len(set(names)) < len(names) else names  # of one model, where they are tells them apart
    if len(set(names)) < len(names):
        raise UsageError(f"name each artifact once; these were named: {', '.join(names)}")
    maskers = {name: SaliencyMasker.load(artifact) for name, artifact in zip(names, loaded)}
    return maskers, [artifact.facts for artifact in loaded]


def _watch_expert(arguments: argparse.Namespace, tracks: Sequence[Any]) -> _Scenes:
    """Return scenes of the expert's drive: some to measure on, those to show, all to film, and what they are."""
    from robostig.evidence import choose_moments, drive_expert

    drive = functools.partial(drive_expert, tracks, laps=arguments.laps, speed_mph=arguments.speed)
    scenes = list(drive(count=EXPLAINED))
    roads = [scene.place.partition(",")[0] for scene in scenes]  # how far along it comes after
    chosen = choose_moments([scene.steering for scene in scenes], arguments.frames, roads)
    where = f"{len(scenes):,} frames, evenly spaced, of the expert on {', '.join(map(str, tracks))}"
    return scenes, [scenes[number] for number in chosen], drive(), where


def _read_scenes(arguments: argparse.Namespace, facts: Sequence[Mapping[str, Any]]) -> _Scenes:
    """Return scenes of a recording, as :func:`_watch_expert`: of rows held out from one of the models, if there are."""
    from robostig.driving_log import read_driving_log
    from robostig.evidence import choose_moments, read_scenes
    from robostig.pipeline import choose_rows

    log = read_driving_log(arguments.data, on_error=arguments.on_error)
    known = [choose_rows(log, each.get("data", {}), each.get("config", {})) for each in facts]
    rows, which = min(known, key=lambda found: len(found[0]))
    chosen = rows[choose_moments(log.steering[rows], arguments.frames)]
    scenes = list(read_scenes(log, rows, count=EXPLAINED))
    where = f"{len(scenes):,} frames, evenly spaced, of {which}"
    return scenes, list(read_scenes(log, chosen)), read_scenes(log, rows), where


def _print_evidence(evidence: Mapping[str, Evidence]) -> None:
    """Print what speaks for each model's masks, and what the columns mean."""
    from robostig.evidence import EDGE_PIXELS, SALIENT

    knows_edges = all(each.salient_at_edges is not None for each in evidence.values())
    rows = [["model", *(["at the edges", "by chance", ""] if knows_edges else []), "painted out", "others", ""]]
    for name, each in evidence.items():
        cells = []
        if each.salient_at_edges is not None and each.chance_at_edges and knows_edges:
            times = each.salient_at_edges / each.chance_at_edges
            shares = (100.0 * each.salient_at_edges, 100.0 * each.chance_at_edges)
            cells = [*map("{:.1f} %".format, shares), f"{times:.1f} times"]
        change, other = each.salient_change * DEGREES, each.other_change * DEGREES
        cells += [f"{change:.2f} deg", f"{other:.2f} deg", f"{change / other:.1f} times" if other else "-"]
        rows.append([name, *cells])
    print_table(rows)
    about = [f"salient are the {100.0 * SALIENT:.0f} % of a model's pixels that count most in a frame"]
    if knows_edges:
        about.append(
            f"at the edges: how many of them are within {EDGE_PIXELS:g} pixels of the road's edges and lines; "
            "by chance: how much of all that the model sees is"
        )
    about.append(
        "painted out: by how much the steering changes where they take the colour around them; others: the same for as "
        "many pixels of the same shape, elsewhere in the frame"
    )
    for line in about:
        print("\n".join(textwrap.wrap(line, 100, subsequent_indent="  ")))
