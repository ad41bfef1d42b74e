"""``robostig tune``: many settings, of which the best is kept."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Iterator

from robostig.cli.arguments import (
    RECORDED,
    Commands,
    UsageError,
    add_command,
    add_data,
    add_json,
    check_usage,
    list_places,
    read_config,
)
from robostig.cli.output import print_json, print_table
from robostig.config import TrainingConfig
from robostig.metrics import DEGREES

if TYPE_CHECKING:
    from robostig.tuning import Trial, Tuning

__all__ = ["add", "run"]


def add(commands: Commands) -> None:
    """Add the command and its flags."""
    command = add_command(
        commands,
        "tune",
        run,
        "try many settings on a recorded drive, and keep the best; settings that are given are not searched",
        "robostig tune --data recording --trials 30 --models nvidia,comma --epochs 12 --out tuned",
    )
    add_data(
        command,
        f"{RECORDED}; or with train_X.npy and the like",
    )
    command.add_argument("--validation", metavar="DIR", help="drive to hold out; else stretches of the first are")
    command.add_argument(
        "--trials", metavar="N", type=int, default=20, help="in all, those of an earlier call among them; default 20"
    )
    command.add_argument("--minutes", metavar="M", type=float, help="stop after the epoch that is running then")
    command.add_argument(
        "--models", "--model", metavar="NAMES", help="names with commas between, to choose from; default nvidia"
    )
    command.add_argument("--out", metavar="DIR", default="tuned", help="for the study and its result; default tuned")
    add_json(command, "the result")
    TrainingConfig.add_arguments(command, leave_out=["model"])


def run(arguments: argparse.Namespace) -> None:
    """Run it."""
    if arguments.trials < 1:
        raise UsageError(f"--trials is {arguments.trials}; it is how many there should be in all, at least 1")
    if arguments.minutes is not None and not arguments.minutes > 0.0:
        raise UsageError(f"--minutes is {arguments.minutes:g}; it is more than 0")
    config = read_config(arguments)
    from robostig.comparison import check_models

    space = {name: options for name, options in config.tuning_ranges().items() if name not in arguments}
    if arguments.models:
        models = [name.strip() for name in arguments.models.split(",")]
        check_usage(lambda: check_models(models, pretrained=config.pretrained))
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
        print_json({**tuning.to_dict(), "train": command, "artifact": str(best) if best else None})
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

    words = ["robostig", "train", *(word for place in list_places(arguments.data) for word in ("--data", place))]
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
    print_table(rows)
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
