"""The ``robostig`` command. What it prints on stdout is the answer; progress and warnings go to stderr."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

from tqdm.contrib.logging import logging_redirect_tqdm

import robostig
from robostig.config import TrainingConfig
from robostig.metrics import DEGREES

__all__ = ["main"]


TRAINING = ("train", "compare")  # the commands that can be resumed


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
        print(f"robostig {arguments.command}: {error}", file=sys.stderr)
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
        epilog="begin with: robostig compare --data recording --out out",
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

    train = add(
        "train",
        _train,
        "train one model on a recorded drive and write its artifact",
        "robostig train --model comma --data recording --out out/comma --epochs 30",
    )
    _add_data(train, "recorded drive: a folder with driving_log.csv, or with train_X.npy and the like")
    train.add_argument("--validation", metavar="DIR", help="drive to hold out; else stretches of the first are")
    train.add_argument("--out", metavar="DIR", help="where the artifact goes; default out/MODEL")
    _add_json(train, "the scores")
    TrainingConfig.add_arguments(train)

    evaluate = add(
        "evaluate",
        _evaluate,
        "score a trained model on a recorded drive",
        "robostig evaluate out/comma --data recording --json",
    )
    evaluate.add_argument("artifact", metavar="ARTIFACT", help="folder of a trained model, as train and compare write")
    _add_data(evaluate, "recorded drive: a folder with driving_log.csv")
    evaluate.add_argument(
        "--rows",
        choices=("auto", "held-out", "all"),
        default="auto",
        help="auto (default): the held-out stretches if the model was trained on this drive, else all",
    )
    evaluate.add_argument(
        "--on-error", choices=("raise", "skip"), default="raise", help="bad rows: stop, or leave them out"
    )
    _add_json(evaluate, "the scores")

    compare = add(
        "compare",
        _compare,
        "train several models on a recorded drive, choose the one that should drive, and show why",
        "robostig compare --data recording --models nvidia,comma --out out",
    )
    _add_data(compare, "recorded drive: a folder with driving_log.csv")
    compare.add_argument("--models", metavar="NAMES", help="names with commas between; default all that there are")
    compare.add_argument(
        "--out", metavar="DIR", default="out", help="for artifacts, comparison and report; default out"
    )
    _add_json(compare, "the comparison")
    TrainingConfig.add_arguments(compare, leave_out=["model"])
    return parser


def _add_data(command: argparse.ArgumentParser, help: str) -> None:
    command.add_argument("--data", metavar="DIR", required=True, help=help)


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


def _evaluate(arguments: argparse.Namespace) -> None:
    from robostig.pipeline import evaluate_artifact

    open_loop, which = evaluate_artifact(
        arguments.artifact, arguments.data, rows=arguments.rows, on_error=arguments.on_error
    )
    if arguments.json:
        _print_json({"open_loop": open_loop.scores, "latency_ms": open_loop.latency_ms, "rows": which})
        return
    print(f"scored on {which}")
    _print_scores(open_loop.scores, open_loop.latency_ms)


def _compare(arguments: argparse.Namespace) -> None:
    config = _read_config(arguments)
    from robostig.comparison import CAVEAT, COMPARISON, check_models, compare
    from robostig.models import list_models
    from robostig.report import write_report

    names = [name.strip() for name in arguments.models.split(",")] if arguments.models else list_models()
    _check_usage(lambda: check_models(names))
    out = Path(arguments.out)
    comparison = compare(arguments.data, names, out, config)
    report = write_report(comparison, out)
    if arguments.json:
        _print_json(comparison.to_dict(Path()))  # artifacts as they are named from here
        return
    rows = [["model", "rmse", "of the mean's", "mae", "latency p50", "trained in"]]
    for name, model in comparison.models.items():
        scores = model.open_loop.scores
        rows.append(
            [
                name,
                f"{scores['rmse']:.4f} ({scores['rmse'] * DEGREES:.2f} deg)",
                f"{scores['rmse_to_mean_baseline']:.2f}" if scores["rmse_to_mean_baseline"] is not None else "-",
                f"{scores['mae']:.4f}",
                f"{model.open_loop.latency_ms['p50']:.1f} ms",
                f"{model.training.seconds:.0f} s",
            ]
        )
    _print_table(rows)
    print(f"\n{comparison.reason} {CAVEAT}\n\nnumbers  {out / COMPARISON}\nreport   {report}")


def _read_config(arguments: argparse.Namespace) -> TrainingConfig:
    return _check_usage(lambda: TrainingConfig.from_arguments(arguments))


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
