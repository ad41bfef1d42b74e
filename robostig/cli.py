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
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from tqdm.contrib.logging import logging_redirect_tqdm

import robostig
from robostig._files import describe_error
from robostig.config import TrainingConfig
from robostig.metrics import DEGREES
from robostig.roads import RECIPE
from robostig.simulation import DIRECTIONS, LOOKS, TOP_MPH, check_laps, parse_tracks

if TYPE_CHECKING:
    from robostig.driving.simulator import SimulatedDrive
    from robostig.tuning import Trial, Tuning

__all__ = ["main"]


TRAINING = ("train", "tune", "compare")  # the commands that can be resumed
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
    pack.add_argument("recording", metavar="RECORDING", help="folder with driving_log.csv, or of such folders")
    pack.add_argument("--out", metavar="DIR", required=True, help="folder to write; it must not be there yet")
    pack.add_argument(
        "--shard-mb", metavar="MB", type=float, default=256.0, help="megabytes that a file has at most; default 256"
    )
    _add_on_error(pack)
    _add_json(pack, "what was packed")

    train = add(
        "train",
        _train,
        "train one model on a recorded drive and write its artifact",
        "robostig train --model comma --data recording --out out/comma --epochs 30",
    )
    _add_data(
        train,
        "recorded drive: a folder with driving_log.csv, of such folders, or packed; or with train_X.npy and the like",
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
        "recorded drive: a folder with driving_log.csv, of such folders, or packed; or with train_X.npy and the like",
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
        "artifact", metavar="ARTIFACT", nargs="?", help="folder of a trained model, as train and compare write"
    )
    evaluate.add_argument("--endpoint", metavar="NAME", help="score a SageMaker endpoint, in place of an artifact")
    evaluate.add_argument(
        "--constant", metavar="STEERING", type=float, help="score a driver who never looks: always this, -1 to 1"
    )
    _add_data(
        evaluate, "recorded drive: a folder with driving_log.csv, several of them, or a packed one", required=False
    )
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
    _add_on_error(evaluate)
    _add_json(evaluate, "the scores")

    compare = add(
        "compare",
        _compare,
        "train several models on a recorded drive, let them drive, choose the one that should, and show why",
        "robostig compare --models nvidia,comma --out out",
    )
    _add_data(
        compare,
        "recorded drive: a folder with driving_log.csv, several of them, or a packed one; without it, the expert is "
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
    compare.add_argument("--models", metavar="NAMES", help="names with commas between; default all that there are")
    compare.add_argument(
        "--out", metavar="DIR", default="out", help="for artifacts, comparison and report; default out"
    )
    _add_json(compare, "the comparison")
    TrainingConfig.add_arguments(compare, leave_out=["model"])

    drive = add(
        "drive",
        _drive,
        "drive Udacity's simulator: the server that it connects to, with a live page for people",
        "robostig drive out/nvidia --set-speed 15 --record driven",
    )
    drive.add_argument("artifact", metavar="ARTIFACT", nargs="?", help="folder of the trained model that drives")
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
        help="folder of a trained model, or a model.tar.gz, whose code is run as SageMaker would run it",
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
    command.add_argument("--data", metavar="DIR", required=required, help=help)


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
                 "reference": spec.reference, "summary": spec.summary}
                for spec in specs
            ]
        )  # fmt: skip
        return
    if not specs:
        raise ValueError(f"no model's name matches {arguments.pattern!r}; there are: {', '.join(list_models())}")
    rows = [["model", "parameters", "input", "what it is"]]
    for spec in specs:
        size = f"{spec.input.height}x{spec.input.width} {spec.input.color_space.upper()}"
        rows.append([spec.name, f"{spec.parameters:,}", size, f"{spec.summary} [{spec.reference}]"])
    _print_table(rows)


def _train(arguments: argparse.Namespace) -> None:
    config = _read_config(arguments)
    from robostig.models import get_spec
    from robostig.pipeline import read_recording, train_model

    _check_usage(lambda: get_spec(config.model))
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
        _check_usage(lambda: check_models(models))
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

    words = ["robostig", "train", "--data", arguments.data]
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
    pictures = len(log) * len(log.pictures)
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


def _evaluate(arguments: argparse.Namespace) -> None:
    _check_evaluate(arguments)
    from robostig.video import VideoWriter

    results: Dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        # Whatever can be wrong with the words shows before the first score.
        tracks, watch = [], None
        if arguments.track is not None:
            tracks = _check_usage(lambda: parse_tracks(arguments.track, arguments.direction))
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


def _check_evaluate(arguments: argparse.Namespace) -> None:
    """Raise _UsageError for words of evaluate that do not go together."""
    given = [each for each in (arguments.artifact, arguments.endpoint, arguments.constant) if each is not None]
    if len(given) != 1:
        raise _UsageError("name one driver: an ARTIFACT, or --endpoint NAME, or --constant STEERING")
    if arguments.data is None and arguments.track is None:
        raise _UsageError("say what to score it on: --data DIR, --track NAMES, or both")
    for_drives = ("laps", "direction", "speed", "delay", "video")
    useless = [f"--{name}" for name in for_drives if getattr(arguments, name) != EVALUATE_DEFAULTS[name]]
    if useless and arguments.track is None:
        raise _UsageError(f"{', '.join(useless)} is about a drive; say where, with --track NAMES")
    if arguments.rows != "auto" and (arguments.artifact is None or arguments.data is None):
        raise _UsageError("--rows is about what an ARTIFACT was trained on; give one, and --data DIR")
    if arguments.constant is not None and not -1.0 <= arguments.constant <= 1.0:
        raise _UsageError(f"--constant is {arguments.constant:g}; a steering is between -1 and 1")


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


def _compare(arguments: argparse.Namespace) -> None:
    from robostig.comparison import CAVEAT, COMPARISON, check_models, compare
    from robostig.models import list_models
    from robostig.report import write_report

    config = _read_config(arguments, RECIPE if arguments.data is None else {})
    names = [name.strip() for name in arguments.models.split(",")] if arguments.models else list_models()
    _check_usage(lambda: check_models(names))
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
