"""The ``robostig`` command. What it prints on stdout is the answer; progress and warnings go to stderr."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import logging
import os
import shlex
import signal
import sys
import textwrap
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple

from tqdm.contrib.logging import logging_redirect_tqdm

import robostig
from robostig._files import describe_error, make_folder, replace_file
from robostig.config import TrainingConfig
from robostig.metrics import DEGREES
from robostig.preprocessing import parse_size
from robostig.roads import RECIPE
from robostig.simulation import DIRECTIONS, LOOKS, TOP_MPH, check_laps, parse_tracks

if TYPE_CHECKING:
    from robostig.driving.simulator import SimulatedDrive
    from robostig.evidence import Evidence, Scene
    from robostig.explanation import SaliencyMasker
    from robostig.inspection import Inspection
    from robostig.tuning import Trial, Tuning

    _Scenes = Tuple[List[Scene], List[Scene], Iterator[Scene], str]

__all__ = ["main"]


SPLITTING = ("validation_fraction", "stretch_s", "gap_s")  # settings that say which rows are trained on
SHEETS = (".png", ".pdf", ".svg")
LEGS, PLACES = 8, 5  # printed at most
EXPLANATION = "explanation.png"
EXPLAINED = 120  # frames that are measured
COMPARED = "nvidia,comma"  # all that there are would take an hour
TRAINING = ("train", "tune", "compare")  # the commands that can be resumed
_RECORDED = (
    "recorded drive: a folder of Udacity's simulator (driving_log.csv), donkeycar (a tub), comma.ai (camera/ and log/) "
    "or robostig pack, or of such folders"
)
_WEIGHTS = "a name of weights that come with RoboStig, such as nvidia"
EVALUATE_DEFAULTS = {"laps": 1.0, "direction": "forward", "speed": TOP_MPH, "delay": 0.0, "video": None}


class _UsageError(Exception):
    """A flag that cannot be: exit status 2, as argparse's own."""


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv
        Words after ``robostig``; those of the process if None.

    Returns
    -------
    int
        0: done. 1: it could not be done, and one line on stderr says why. 2: the command was not understood.
    """
    arguments = _build_parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    run: Callable[[argparse.Namespace], None] = arguments.run
    with contextlib.suppress(ValueError):  # not in the main thread
        # Unfinished files are then removed, and servers ended, as with Ctrl-C; also when the terminal is closed.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup has it
            signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    try:
        with logging_redirect_tqdm():
            run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has gone, as in `robostig models | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except _UsageError as error:
        print(f"robostig {arguments.command}: {error}", file=sys.stderr)
        return 2
    except (ValueError, OSError, ImportError) as error:
        print(f"robostig {arguments.command}: {describe_error(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        resumed = "; the same command goes on from the last finished epoch" if arguments.command in TRAINING else ""
        print(f"robostig {arguments.command}: interrupted{resumed}", file=sys.stderr)
        return 130
    return 0


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="robostig",
        description="Train networks that drive like a recorded driver, and choose which one should drive.",
        epilog="begin with: robostig compare --out out",
    )
    parser.add_argument("--version", action="version", version=f"robostig {robostig.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, run: Callable[[argparse.Namespace], None], help: str, example: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            help=help,
            description=f"{help[0].upper()}{help[1:]}.",
            epilog=f"example: {example}",
            allow_abbrev=False,
        )
        command.set_defaults(run=run)
        return command

    models = add("models", _models, "list the models of the zoo", "robostig models 'n*' --json")
    models.add_argument("pattern", nargs="?", default="*", help="which names, as in a shell; default all")
    _add_json(models, "the list")

    record = add(
        "record",
        _record,
        "record the expert on the built-in track, as Udacity's simulator records a human",
        "robostig record recording --track lake,mountain:3 --laps 2 --direction both --seed 7",
    )
    record.add_argument("out", metavar="OUT", help="folder for driving_log.csv and IMG/; it must not be there yet")
    _add_track(record, "default lake", default="lake")
    record.add_argument("--seed", type=int, default=0, help="of the driver's hands; the same gives the same files")
    record.add_argument(
        "--no-recoveries", action="store_true", help="leave out how the driver comes back from the edge of the lane"
    )
    _add_json(record, "what was recorded")

    pack = add(
        "pack",
        _pack,
        "pack a recorded drive into a few large files (RecordIO), which come quicker from S3 than many small ones",
        "robostig pack recording --out packed --shard-mb 256",
    )
    pack.add_argument("recording", metavar="RECORDING", nargs="+", help=f"{_RECORDED}; several become one")
    pack.add_argument("--out", metavar="DIR", required=True, help="folder to write; it must not be there yet")
    pack.add_argument(
        "--shard-mb", metavar="MB", type=float, default=256.0, help="megabytes that a file has at most; default 256"
    )
    _add_on_error(pack)
    _add_json(pack, "what was packed")

    inspect = add(
        "inspect",
        _inspect,
        "look at a recorded drive: time, laps, labels, every picture's faults, and what training would leave out",
        "robostig inspect recording --out inspect.png",
    )
    inspect.add_argument("recording", metavar="RECORDING", nargs="+", help=f"{_RECORDED}; several become one")
    inspect.add_argument("--out", metavar="FILE", help="draw it, too: on one sheet, as .png, .pdf or .svg")
    _add_json(inspect, "what was found")
    TrainingConfig.add_arguments(
        inspect, leave_out=[each.name for each in fields(TrainingConfig) if each.name not in SPLITTING]
    )

    train = add(
        "train",
        _train,
        "train one model on a recorded drive and write its artifact",
        "robostig train --model comma --data recording --out out/comma --epochs 30",
    )
    _add_data(
        train,
        f"{_RECORDED}; or with train_X.npy and the like",
    )
    train.add_argument("--validation", metavar="DIR", help="drive to hold out; else stretches of the first are")
    train.add_argument("--out", metavar="DIR", help="where the artifact goes; default out/MODEL")
    _add_json(train, "the scores")
    TrainingConfig.add_arguments(train)

    tune = add(
        "tune",
        _tune,
        "try many settings on a recorded drive, and keep the best; settings that are given are not searched",
        "robostig tune --data recording --trials 30 --models nvidia,comma --epochs 12 --out tuned",
    )
    _add_data(
        tune,
        f"{_RECORDED}; or with train_X.npy and the like",
    )
    tune.add_argument("--validation", metavar="DIR", help="drive to hold out; else stretches of the first are")
    tune.add_argument(
        "--trials", metavar="N", type=int, default=20, help="in all, those of an earlier call among them; default 20"
    )
    tune.add_argument("--minutes", metavar="M", type=float, help="stop after the epoch that is running then")
    tune.add_argument(
        "--models", "--model", metavar="NAMES", help="names with commas between, to choose from; default nvidia"
    )
    tune.add_argument("--out", metavar="DIR", default="tuned", help="for the study and its result; default tuned")
    _add_json(tune, "the result")
    TrainingConfig.add_arguments(tune, leave_out=["model"])

    evaluate = add(
        "evaluate",
        _evaluate,
        "score a driver on a recorded drive (--data), on roads of the built-in track (--track), or both",
        "robostig evaluate out/comma --track mountain:17 --direction both --video drive.webm",
    )
    evaluate.add_argument(
        "artifact",
        metavar="ARTIFACT",
        nargs="?",
        help=f"folder of a trained model, as train and compare write, or {_WEIGHTS}",
    )
    evaluate.add_argument("--endpoint", metavar="NAME", help="score a SageMaker endpoint, in place of an artifact")
    evaluate.add_argument(
        "--constant", metavar="STEERING", type=float, help="score a driver who never looks: always this, -1 to 1"
    )
    _add_data(evaluate, _RECORDED, required=False)
    _add_track(evaluate, "drive it and count interventions")
    evaluate.add_argument(
        "--delay", metavar="S", type=float, default=0.0, help="seconds between an answer and the wheels; default 0"
    )
    evaluate.add_argument("--video", metavar="FILE", help="film the drive: .webm (for browsers), .mp4, .avi or .mkv")
    evaluate.add_argument(
        "--rows",
        choices=("auto", "held-out", "all"),
        default="auto",
        help="auto (default): the held-out stretches if the model was trained on this drive, else all",
    )
    evaluate.add_argument(
        "--keep", action="store_true", help="note the scores in the ARTIFACT's facts and card, beside those it has"
    )
    _add_on_error(evaluate)
    _add_json(evaluate, "the scores")

    explain = add(
        "explain",
        _explain,
        "show which pixels steer, by NVIDIA's own method for PilotNet, in a picture and a video, and how right that is",
        "robostig explain out/nvidia out/comma --track lake:101,mountain:101 --out explained --video looks.webm",
    )
    explain.add_argument(
        "artifacts",
        metavar="ARTIFACT",
        nargs="+",
        help=f"folder of a trained model with convolutions, or {_WEIGHTS}; several are shown side by side",
    )
    _add_data(explain, f"look at these frames; {_RECORDED}", required=False)
    _add_track(explain, "look at what the expert sees there; its edges are known, so it is measured who looks at them")
    explain.add_argument("--out", metavar="DIR", required=True, help="folder for explanation.png and explanation.json")
    explain.add_argument("--video", metavar="FILE", help="film it, too: .webm (for browsers), .mp4, .avi or .mkv")
    explain.add_argument(
        "--frames",
        metavar="N",
        type=int,
        default=5,
        help="in the picture, from the sharpest left to the sharpest right; 1 to 12, default 5",
    )
    _add_on_error(explain)
    _add_json(explain, "what was measured")

    compare = add(
        "compare",
        _compare,
        "train several models on a recorded drive, let them drive, choose the one that should, and show why",
        "robostig compare --models nvidia,comma --out out",
    )
    _add_data(
        compare,
        f"{_RECORDED}; without it, the expert is "
        "recorded on the built-in track, and "
        f"some defaults are others: {', '.join(f'{name} {value}' for name, value in RECIPE.items())}",
        required=False,
    )
    compare.add_argument(
        "--track",
        metavar="NAMES",
        help="roads that all models drive, both ways: names with commas between, or none; default six that are in no "
        "recording of ours",
    )
    compare.add_argument("--laps", type=float, default=1.0, help="of each road, both ways; default 1")
    compare.add_argument(
        "--models", metavar="NAMES", default=COMPARED, help=f"names with commas between; default {COMPARED}"
    )
    compare.add_argument(
        "--out", metavar="DIR", default="out", help="for artifacts, comparison and report; default out"
    )
    _add_json(compare, "the comparison")
    TrainingConfig.add_arguments(compare, leave_out=["model"])

    export = add(
        "export",
        _export,
        "write a trained model as one file that runs without MXNet and RoboStig, and check that it steers as the "
        "model does: with ONNX Runtime, in a car or in any framework's endpoint",
        "robostig export out/nvidia --with-preprocessing --data recording --out nvidia.onnx",
    )
    export.add_argument("artifact", metavar="ARTIFACT", help=f"folder of a trained model, or {_WEIGHTS}")
    export.add_argument("--format", choices=("onnx",), default="onnx", help="of the file; default onnx")
    export.add_argument(
        "--with-preprocessing",
        action="store_true",
        help="the file takes a camera's frames, uint8 RGB, and crops, resizes and converts them as the model's pilot "
        "does; else it takes float32 pictures, ready for the network",
    )
    export.add_argument(
        "--frame-size",
        metavar="HxW",
        help="height and width of these frames; default those that the model learned from, or 160x320, the simulator's",
    )
    _add_data(export, f"compare on these frames, not on the built-in track's; {_RECORDED}", required=False)
    _add_on_error(export)
    export.add_argument("--out", metavar="FILE", help="the file to write; default MODEL.onnx, in this folder")
    _add_json(export, "what was written")

    drive = add(
        "drive",
        _drive,
        "drive Udacity's simulator: the server that it connects to, with a live page for people",
        "robostig drive nvidia --set-speed 15 --record driven",
    )
    drive.add_argument(
        "artifact", metavar="ARTIFACT", nargs="?", help=f"folder of the trained model that drives, or {_WEIGHTS}"
    )
    drive.add_argument("--endpoint", metavar="NAME", help="a SageMaker endpoint that drives, in place of an artifact")
    drive.add_argument(
        "--set-speed", metavar="MPH", type=float, default=15.0, help="speed on a straight, up to 30; default 15"
    )
    drive.add_argument("--record", metavar="DIR", help="write what is driven as a log that can be trained on")
    drive.add_argument(
        "--host", default="127.0.0.1", help="address to listen at; default 127.0.0.1, 0.0.0.0 is every network"
    )
    drive.add_argument(
        "--port", type=int, default=4567, help="default 4567, where the simulator connects to; 0 is any free one"
    )

    serve = add(
        "serve",
        _serve,
        "answer requests as SageMaker's endpoints do, with the packages of its inference image: one endpoint a model",
        "robostig serve out/nvidia out/comma --port 8080",
    )
    serve.add_argument(
        "artifacts",
        metavar="ARTIFACT",
        nargs="+",
        help=f"folder of a trained model, {_WEIGHTS}, or a model.tar.gz, whose code is run as SageMaker would run it",
    )
    serve.add_argument(
        "--port", type=int, default=8080, help="of the first; the others take the next ones; 0: any; default 8080"
    )
    serve.add_argument("--workers", metavar="N", type=int, default=1, help="processes that answer, each; default 1")
    serve.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; 127.0.0.1 (default): this machine alone, 0.0.0.0: every network that it is in",
    )

    simulate = add(
        "simulate",
        _simulate,
        "connect to a driving server as Udacity's simulator does, and let it drive the built-in track",
        "robostig simulate --connect ws://127.0.0.1:4567 --track mountain:17 --laps 2",
    )
    simulate.add_argument(
        "--connect", metavar="ADDRESS", default="ws://127.0.0.1:4567", help="the server; default ws://127.0.0.1:4567"
    )
    simulate.add_argument(
        "--track", metavar="NAME", default="lake", help="lake, mountain:17 and the like; default lake"
    )
    simulate.add_argument("--direction", choices=("forward", "backward"), default="forward", help="default forward")
    simulate.add_argument(
        "--laps", type=float, default=1.0, help="for the model to drive; may be a part of one; default 1"
    )
    simulate.add_argument(
        "--manual-seconds", metavar="S", type=float, default=0.0, help="let a human drive so long at first; default 0"
    )
    simulate.add_argument("--decimal-comma", action="store_true", help="write numbers as a German computer does")
    simulate.add_argument("--real-time", action="store_true", help="15 frames a second, not as many as are answered")
    _add_json(simulate, "the scores")
    return parser


def _add_data(command: argparse.ArgumentParser, help: str, *, required: bool = True) -> None:
    command.add_argument(
        "--data", metavar="DIR", required=required, action=_Gather, help=f"{help}; give it again to join another one"
    )


class _Gather(argparse.Action):
    """A flag that may be given again: a text if it is given once, then a list."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, values if before is None else [*_list_places(before), values])


def _list_places(data: Any) -> List[str]:
    """Return what --data named, once or several times."""
    return [data] if isinstance(data, str) else list(data)


def _add_track(command: argparse.ArgumentParser, help: str, *, default: Optional[str] = None) -> None:
    command.add_argument(
        "--track",
        metavar="NAMES",
        default=default,
        help=f"road of the built-in track: {', '.join(LOOKS)}, or any other with such a look by its number, as in "
        f"mountain:17; several with commas between; {help}",
    )
    command.add_argument("--laps", type=float, default=1.0, help="of each road, 0.1 will do too; default 1")
    command.add_argument(
        "--direction", choices=(*DIRECTIONS, "both"), default="forward", help="default forward; both is twice the laps"
    )
    command.add_argument(
        "--speed", metavar="MPH", type=float, default=TOP_MPH, help=f"miles an hour; default {TOP_MPH:g}"
    )


def _add_on_error(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--on-error", choices=("raise", "skip"), default="raise", help="bad rows: stop, or leave them out"
    )


def _add_json(command: argparse.ArgumentParser, what: str) -> None:
    command.add_argument("--json", action="store_true", help=f"print {what} as JSON")


def _models(arguments: argparse.Namespace) -> None:
    from robostig.models import get_spec, list_models

    specs = [get_spec(name) for name in list_models(arguments.pattern)]
    if arguments.json:
        _print_json(
            [
                {"name": spec.name, "parameters": spec.parameters, "input": spec.input.to_dict(),
                 "reference": spec.reference, "summary": spec.summary, "pretrained": spec.pretrained}
                for spec in specs
            ]
        )  # fmt: skip
        return
    if not specs:
        raise ValueError(f"no model's name matches {arguments.pattern!r}; there are: {', '.join(list_models())}")
    rows = [["model", "parameters", "input", "trained weights", "what it is"]]
    for spec in specs:
        size = f"{spec.input.height}x{spec.input.width} {spec.input.color_space.upper()}"
        known = f"{spec.summary} [{spec.reference}]"
        rows.append([spec.name, f"{spec.parameters:,}", size, spec.pretrained or "-", known])
    _print_table(rows)


def _train(arguments: argparse.Namespace) -> None:
    config = _read_config(arguments)
    from robostig.models import get_spec
    from robostig.pipeline import read_recording, train_model

    _check_usage(lambda: get_spec(config.model, pretrained=config.pretrained))
    recording = read_recording(arguments.data, config, validation_folder=arguments.validation)
    logging.info(recording.describe())
    trained = train_model(config, recording, arguments.out or Path("out") / config.model)
    if arguments.json:
        _print_json({**trained.summarize(), "artifact": str(trained.artifact)})
        return
    _print_scores(trained.open_loop.scores, trained.open_loop.latency_ms)
    print(f"artifact  {trained.artifact}")


def _tune(arguments: argparse.Namespace) -> None:
    if arguments.trials < 1:
        raise _UsageError(f"--trials is {arguments.trials}; it is how many there should be in all, at least 1")
    if arguments.minutes is not None and not arguments.minutes > 0.0:
        raise _UsageError(f"--minutes is {arguments.minutes:g}; it is more than 0")
    config = _read_config(arguments)
    from robostig.comparison import check_models

    space = {name: options for name, options in config.tuning_ranges().items() if name not in arguments}
    if arguments.models:
        models = [name.strip() for name in arguments.models.split(",")]
        _check_usage(lambda: check_models(models, pretrained=config.pretrained))
        config = replace(config, model=models[0])
        space = {"model": tuple(models), **space} if len(models) > 1 else space
    from robostig.tuning import BEST, PICTURE, TUNING, tune

    with _quiet("robostig.training", "robostig.pipeline"):  # a line a trial will do, and its bar shows the epochs
        tuning = tune(
            arguments.data,
            arguments.out,
            config,
            trials=arguments.trials,
            space=space,
            minutes=arguments.minutes,
            validation_folder=arguments.validation,
        )
    command = _make_train_command(tuning.best_config, arguments)
    # Somebody may have taken it away since its trial.
    best = tuning.folder / BEST if (tuning.folder / BEST).is_dir() else None
    if arguments.json:
        _print_json({**tuning.to_dict(), "train": command, "artifact": str(best) if best else None})
        return
    _print_tuning(tuning)
    print(
        f"\ntrain so      {command}\non SageMaker  hyperparameters={json.dumps(tuning.hyperparameters)}\n\n"
        f"artifact  {best or 'gone; train it again as above'}\n"
        f"numbers   {tuning.folder / TUNING}\npicture   {tuning.folder / PICTURE}"
    )


def _make_train_command(config: TrainingConfig, arguments: argparse.Namespace) -> str:
    """Return the command that trains with a configuration, which names what differs from the defaults."""
    from robostig.tuning import list_changes

    words = ["robostig", "train", *(word for place in _list_places(arguments.data) for word in ("--data", place))]
    words += ["--validation", arguments.validation] if arguments.validation else []
    for name, value in {"model": config.model, **list_changes(config)}.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return " ".join(map(shlex.quote, words))


def _print_tuning(tuning: Tuning) -> None:
    """Print what was searched, what is best, and by how much."""
    from robostig.tuning import describe_range

    best, default, importances = tuning.best, tuning.default, tuning.importances
    rows = [["setting", "best", "default", "searched", "explains" if importances else ""]]
    for name in sorted(tuning.space, key=lambda name: -importances.get(name, 0.0)):
        share = f"{100.0 * importances[name]:.0f} %" if importances else ""
        values = [str(values) for values in (best.settings[name], getattr(tuning.config, name))]
        rows.append([name, *values, describe_range(tuning.space[name]), share])
    _print_table(rows)
    if best.is_default:
        than = ", and is the defaults: nothing better was found"
    elif default is None:
        than = "; the defaults' trial did not finish"
    else:
        than = f"; the defaults have {_show_rmse(default)}"
    states = ", ".join(f"{count} {state}" for state, count in tuning.count_states().items())
    print(
        f"\ntrial {best.number} is the best of {len(tuning.trials)} ({states}): RMSE {_show_rmse(best)} on the "
        f"held-out rows{than}\nThese rows chose the settings, which flatters them; another seed would give others."
    )


def _show_rmse(trial: Trial) -> str:
    assert trial.rmse is not None  # it is finished
    return f"{trial.rmse:.5f} ({trial.rmse * DEGREES:.2f} degrees)"


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Let loggers say nothing but warnings for a while."""
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _record(arguments: argparse.Namespace) -> None:
    from robostig.driving_log import read_driving_log
    from robostig.simulation import record

    tracks = _check_usage(lambda: parse_tracks(arguments.track, arguments.direction))
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
        _print_json({"folder": str(folder), "rows": len(log), "minutes": minutes, "tracks": list(map(str, tracks))})
        return
    print(f"{log.describe()}\ntrain on it: robostig train --data {shlex.quote(str(folder))}")


def _pack(arguments: argparse.Namespace) -> None:
    if not arguments.shard_mb > 0.0:
        raise _UsageError(f"--shard-mb is {arguments.shard_mb:g}; a file has more than 0 megabytes")
    from robostig.driving_log import pack_driving_log, read_driving_log

    log = read_driving_log(arguments.recording, on_error=arguments.on_error)
    logging.info(log.describe())
    files = pack_driving_log(log, arguments.out, shard_mb=arguments.shard_mb)
    pictures = sum(int(log.locate_pictures(camera).sum()) for camera in log.pictures)
    if arguments.json:
        _print_json(
            {"folder": arguments.out, "rows": len(log), "rows_left_out": len(log.skipped), "pictures": pictures,
             "drives": len(log.drives), "cameras": list(log.pictures), "files": files}
        )  # fmt: skip
        return
    print(
        f"{len(log):,} rows and {pictures:,} pictures are in {files:,} files in {arguments.out}; {len(log.skipped):,} "
        f"rows left out\ntrain on it: robostig train --data {shlex.quote(arguments.out)}"
    )


def _inspect(arguments: argparse.Namespace) -> None:
    config = _read_config(arguments)
    out = None if arguments.out is None else Path(arguments.out)
    if out is not None:  # what can be wrong with the name shows before the first picture
        if out.suffix.lower() not in SHEETS or out.is_dir():
            raise _UsageError(f"--out is {arguments.out}; name a file that ends with {', '.join(SHEETS)}")
        make_folder(out.parent)
    from robostig.inspection import inspect_recording

    inspection = inspect_recording(arguments.recording, config)
    if out is not None:
        from robostig.figures import save_figure
        from robostig.sheet import draw_sheet

        save_figure(draw_sheet(inspection), out)
    if arguments.json:
        _print_json(inspection.to_dict())
        return
    for rows in (_list_contents, _list_legs, _list_faults, _list_use):
        _print_table(rows(inspection))
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


def _evaluate(arguments: argparse.Namespace) -> None:
    _check_evaluate(arguments)
    from robostig.video import VideoWriter

    results: Dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        # Whatever can be wrong with the words shows before the first score.
        tracks, watch = [], None
        if arguments.track is not None:
            tracks = _check_usage(lambda: parse_tracks(arguments.track, arguments.direction))
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
        _print_json(results)
    if arguments.keep:  # last: whatever goes wrong there, the scores have been told
        _keep_scores(arguments, results)


def _check_evaluate(arguments: argparse.Namespace) -> None:
    """Raise _UsageError for words of evaluate that do not go together."""
    given = [each for each in (arguments.artifact, arguments.endpoint, arguments.constant) if each is not None]
    if len(given) != 1:
        raise _UsageError("name one driver: an ARTIFACT, or --endpoint NAME, or --constant STEERING")
    if arguments.data is None and arguments.track is None:
        raise _UsageError("say what to score it on: --data DIR, --track NAMES, or both")
    _check_drive(arguments, EVALUATE_DEFAULTS)
    if arguments.rows != "auto" and (arguments.artifact is None or arguments.data is None):
        raise _UsageError("--rows is about what an ARTIFACT was trained on; give one, and --data DIR")
    if arguments.keep and arguments.artifact is None:
        raise _UsageError("--keep notes the scores in an ARTIFACT; give one")
    if arguments.constant is not None and not -1.0 <= arguments.constant <= 1.0:
        raise _UsageError(f"--constant is {arguments.constant:g}; a steering is between -1 and 1")


def _check_drive(arguments: argparse.Namespace, defaults: Iterable[str]) -> None:
    """Raise _UsageError for words about a drive where there is none."""
    useless = [f"--{name}" for name in defaults if getattr(arguments, name) != EVALUATE_DEFAULTS[name]]
    if useless and arguments.track is None:
        raise _UsageError(f"{', '.join(useless)} is about a drive; say where, with --track NAMES")


def _check_keep(artifact: str) -> None:
    """Raise _UsageError for an artifact that is not the user's to add to."""
    from robostig.artifact import WEIGHTS, find_artifact

    folder = find_artifact(artifact)
    if folder.resolve().parent == WEIGHTS:
        raise _UsageError(
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
        where[f"the recording {', '.join(name_places(_list_places(arguments.data)))}"] = found
    if driven:
        late = f", {arguments.delay:g} s late" if arguments.delay else ""
        road = f"{arguments.track} {arguments.direction}, {arguments.laps:g} laps at {arguments.speed:g} mph{late}"
        where[f"the built-in track, {road}"] = {"closed_loop": driven}
    add_facts(folder, {"elsewhere": {**read_facts(folder).get("elsewhere", {}), **where}})
    logging.info("noted in %s", folder)


def _evaluate_on_data(arguments: argparse.Namespace, driver: Any, label: str) -> Dict[str, Any]:
    from robostig.pipeline import evaluate_artifact, evaluate_driver

    if arguments.artifact is not None:
        open_loop, which = evaluate_artifact(
            arguments.artifact, arguments.data, rows=arguments.rows, on_error=arguments.on_error
        )
    else:
        open_loop, which = evaluate_driver(driver, arguments.data, on_error=arguments.on_error, label=label)
    if not arguments.json:
        print(f"scored on {which}")
        _print_scores(open_loop.scores, open_loop.latency_ms)
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

    pilot = Pilot.load(arguments.artifact, context=choose_contexts("auto")[0])
    return pilot, str(pilot.facts.get("model", "pilot"))


def _explain(arguments: argparse.Namespace) -> None:
    if (arguments.data is None) == (arguments.track is None):
        raise _UsageError("say what to look at: --data DIR or --track NAMES, one of the two")
    _check_drive(arguments, ("laps", "direction", "speed"))
    if not 1 <= arguments.frames <= 12:
        raise _UsageError(f"--frames is {arguments.frames}; the picture shows 1 to 12 of them")
    tracks = []
    if arguments.track is not None:
        tracks = _check_usage(lambda: parse_tracks(arguments.track, arguments.direction))
        _check_usage(lambda: check_laps(arguments.laps))
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
        _print_json(result)
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
        raise _UsageError(f"name each artifact once; these were named: {', '.join(names)}")
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
    _print_table(rows)
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


def _compare(arguments: argparse.Namespace) -> None:
    from robostig.comparison import CAVEAT, COMPARISON, check_models, compare
    from robostig.report import write_report

    config = _read_config(arguments, RECIPE if arguments.data is None else {})
    names = [name.strip() for name in arguments.models.split(",")]
    _check_usage(lambda: check_models(names, pretrained=config.pretrained))
    _check_usage(lambda: check_laps(arguments.laps))
    out = Path(arguments.out)
    tracks = None
    if arguments.track is not None:
        is_none = arguments.track.strip().lower() == "none"
        tracks = [] if is_none else _check_usage(lambda: parse_tracks(arguments.track, "both"))
    comparison = compare(arguments.data, names, out, config, tracks=tracks, laps=arguments.laps)
    report = write_report(comparison, out)
    if arguments.json:
        _print_json(comparison.to_dict(Path()))  # artifacts as they are named from here
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
    _print_table(rows)
    print(f"\n{comparison.reason} {CAVEAT}\n\nnumbers  {out / COMPARISON}\nreport   {report}")


def _show_driving(closed_loop: Any) -> List[str]:
    if closed_loop is None:
        return ["-", "-"]
    return [f"{closed_loop.scores['autonomy']:.1f} %", f"{closed_loop.scores['lateral_rmse_m']:.2f} m"]


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
    _print_table(rows)
    print(
        f"\n{summary['laps']:.1f} laps, {summary['distance_m'] / 1000.0:.1f} km, {summary['simulated_s']:.0f} "
        f"simulated seconds in {summary['elapsed_s']:.1f}"
    )


def _export(arguments: argparse.Namespace) -> None:
    if arguments.frame_size is not None and not arguments.with_preprocessing:
        raise _UsageError("--frame-size is about a camera's frames; add --with-preprocessing")
    frame_size = None if arguments.frame_size is None else _check_usage(lambda: parse_size(arguments.frame_size))
    from robostig.artifact import find_artifact, read_facts
    from robostig.driving_log import read_driving_log
    from robostig.export import OPSET, export_onnx

    folder = find_artifact(arguments.artifact)
    out = arguments.out or f"{Path(read_facts(folder)['model']).name}.onnx"
    log = None if arguments.data is None else read_driving_log(arguments.data, on_error=arguments.on_error)
    exported = export_onnx(folder, out, with_preprocessing=arguments.with_preprocessing, frame_size=frame_size, log=log)
    if arguments.json:
        _print_json(exported.to_dict())
        return
    agreement, size = exported.agreement, exported.path.stat().st_size
    took = agreement.latency_ms
    _print_table(
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


def _drive(arguments: argparse.Namespace) -> None:
    from robostig.driving.speed import SpeedController

    if (arguments.artifact is None) == (arguments.endpoint is None):
        raise _UsageError("name the ARTIFACT that drives, or an --endpoint; one of the two")
    _check_usage(lambda: SpeedController(arguments.set_speed))
    if not 0 <= arguments.port <= 65535:
        raise _UsageError(f"there is no port {arguments.port}; ports are 0 (any) to 65535")
    if not arguments.host.strip():
        raise _UsageError("--host is empty; 127.0.0.1 is this machine alone, 0.0.0.0 every network that it is in")
    from robostig.driving.server import DrivingServer, serve

    if arguments.endpoint is not None:
        from robostig.endpoint import Endpoint

        name, steer = arguments.endpoint, Endpoint(arguments.endpoint).steer
    else:
        from robostig.backend import choose_contexts
        from robostig.pilot import Pilot

        pilot = Pilot.load(arguments.artifact, context=choose_contexts("auto")[0])
        name, steer = str(pilot.facts["model"]), pilot.steer
    server = DrivingServer(steer, name=name, set_speed_mph=arguments.set_speed, record=arguments.record)

    def announce(page: str) -> None:
        logging.info(
            "%s is ready: start the simulator in Autonomous Mode, and watch %s (Ctrl-C ends the drive)", name, page
        )

    serve(server, arguments.host, arguments.port, announce=announce)
    print(server.summarize())


def _serve(arguments: argparse.Namespace) -> None:
    from robostig.container import Server, check_port, find_environment, open_model

    if arguments.workers < 1:
        raise _UsageError(f"--workers is {arguments.workers}; one or more processes have to answer")
    with contextlib.ExitStack() as stack:
        # Whatever can be wrong shows before anything starts.
        models = [stack.enter_context(open_model(artifact)) for artifact in arguments.artifacts]
        ports = [arguments.port and arguments.port + number for number in range(len(models))]
        for port in ports:
            _check_usage(functools.partial(check_port, port, arguments.host))
        environment = find_environment("serving")
        for note in environment.notes:
            logging.warning(note)
        servers = []
        for name, model, port in zip(arguments.artifacts, models, ports):
            logging.info("starting %s", name)
            server = Server(
                model.folder, port=port, workers=arguments.workers, host=arguments.host, environment=environment
            )
            servers.append(stack.enter_context(server))
        for name, model, server in zip(arguments.artifacts, models, servers):
            print(
                f"{model.model}  {server.url}  ({name})\n  {environment.description}\n  try it: "
                f"curl --data-binary @frame.jpg -H 'Content-Type: image/jpeg' {server.url}\n"
            )
        sys.stdout.flush()
        logging.info("ready; Ctrl-C ends %s", "it" if len(servers) == 1 else "them")
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(0.5)
                for server in servers:
                    server.check()


def _simulate(arguments: argparse.Namespace) -> None:
    import asyncio

    from robostig.driving.simulator import parse_address, simulate
    from robostig.simulation import Simulation, load_track

    if not 0.0 < arguments.laps <= 1000.0 or not 0.0 <= arguments.manual_seconds <= 3600.0:
        raise _UsageError("laps are more than 0 and up to 1,000, manual seconds 0 to 3,600")
    address = _check_usage(lambda: parse_address(arguments.connect))
    track = _check_usage(lambda: load_track(arguments.track, direction=arguments.direction))
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
        _print_json({"closed_loop": driven.to_dict()})
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
    _print_table(rows)


def _read_config(arguments: argparse.Namespace, recipe: Optional[Dict[str, Any]] = None) -> TrainingConfig:
    return _check_usage(lambda: TrainingConfig.from_arguments(arguments, recipe=recipe))


def _check_usage(read: Callable[[], Any]) -> Any:
    """Return what ``read`` returns; its ValueError is a fault of the command line."""
    try:
        return read()
    except ValueError as error:
        raise _UsageError(str(error)) from error


def _print_scores(scores: Dict[str, Any], latency_ms: Dict[str, float]) -> None:
    rows: List[List[str]] = []
    for name, value in scores.items():
        if value is None:
            continue
        if name == "frames":
            rows.append([name, f"{value:,}", ""])
        elif name.startswith("whiteness"):
            rows.append([name, f"{value:.2f}", "degrees/s"])
        elif name in ("correlation", "rmse_to_mean_baseline"):
            rows.append([name, f"{value:.3f}", ""])
        else:
            rows.append([name, f"{value:.5f}", f"{value * DEGREES:.2f} degrees"])
    rows.append(
        ["latency", f"{latency_ms['p50']:.2f}", f"ms (median; {latency_ms['p99']:.2f} ms at the 99th percentile)"]
    )
    _print_table(rows)


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, allow_nan=False))


if __name__ == "__main__":
    sys.exit(main())
