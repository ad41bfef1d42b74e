"""What the words of several commands have in common, and how a wrong one is told."""

from __future__ import annotations

import argparse
from typing import Any, Callable, Dict, Iterable, List, Optional

from robostig.config import TrainingConfig
from robostig.simulation import DIRECTIONS, LOOKS, TOP_MPH

__all__ = [
    "DRIVE_DEFAULTS",
    "RECORDED",
    "WEIGHTS",
    "Commands",
    "UsageError",
    "add_command",
    "add_data",
    "add_dtype",
    "add_json",
    "add_on_error",
    "add_track",
    "check_drive",
    "check_dtype",
    "check_usage",
    "check_words",
    "list_places",
    "read_config",
]

RECORDED = (
    "recorded drive: a folder of Udacity's simulator (driving_log.csv), donkeycar (a tub), comma.ai (camera/ and log/) "
    "or robostig pack, or of such folders"
)
WEIGHTS = "a name of weights that come with RoboStig, such as nvidia"
DRIVE_DEFAULTS = {"laps": 1.0, "direction": "forward", "speed": TOP_MPH, "delay": 0.0, "video": None}
Commands = argparse._SubParsersAction


class UsageError(Exception):
    """A flag that cannot be: exit status 2, as argparse's own."""


def add_command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], None], help: str, example: str
) -> argparse.ArgumentParser:
    """Add a command that ``run`` does, and return its parser; the example stands at the end of its help."""
    command = commands.add_parser(
        name,
        help=help,
        description=f"{help[0].upper()}{help[1:]}.",
        epilog=f"example: {example}",
        allow_abbrev=False,
    )
    command.set_defaults(run=run)
    return command


def add_dtype(command: argparse.ArgumentParser) -> None:
    """Add ``--dtype``, what an artifact computes with."""
    command.add_argument(
        "--dtype",
        choices=("float32", "int8"),
        default="float32",
        help="what the ARTIFACT's large dense layers compute with, on a CPU; default float32",
    )


def check_dtype(arguments: argparse.Namespace) -> None:
    """Raise UsageError for a --dtype of what is not computed here."""
    if arguments.dtype != "float32" and arguments.artifact is None:
        raise UsageError("--dtype is about what an ARTIFACT computes with; give one")


def add_data(command: argparse.ArgumentParser, help: str, *, required: bool = True) -> None:
    """Add ``--data``, which may be given again."""
    command.add_argument(
        "--data", metavar="DIR", required=required, action=_Gather, help=f"{help}; give it again to join another one"
    )


class _Gather(argparse.Action):
    """A flag that may be given again: a text if it is given once, then a list."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, values if before is None else [*list_places(before), values])


def list_places(data: Any) -> List[str]:
    """Return what --data named, once or several times."""
    return [data] if isinstance(data, str) else list(data)


def add_track(command: argparse.ArgumentParser, help: str, *, default: Optional[str] = None) -> None:
    """Add ``--track`` and how it is driven."""
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


def add_on_error(command: argparse.ArgumentParser) -> None:
    """Add ``--on-error``."""
    command.add_argument(
        "--on-error", choices=("raise", "skip"), default="raise", help="bad rows: stop, or leave them out"
    )


def add_json(command: argparse.ArgumentParser, what: str) -> None:
    """Add ``--json``."""
    command.add_argument("--json", action="store_true", help=f"print {what} as JSON")


def read_config(arguments: argparse.Namespace, recipe: Optional[Dict[str, Any]] = None) -> TrainingConfig:
    """Return the configuration that the flags give, where they are silent that of the recipe."""
    return check_usage(lambda: TrainingConfig.from_arguments(arguments, recipe=recipe))


def check_usage(read: Callable[[], Any]) -> Any:
    """Return what ``read`` returns; its ValueError is a fault of the command line."""
    try:
        return read()
    except ValueError as error:
        raise UsageError(str(error)) from error


def check_words(arguments: argparse.Namespace) -> None:
    """Raise UsageError for an empty word: a folder of no name would be the one that the command runs in."""
    for name, value in vars(arguments).items():
        if any(isinstance(each, str) and not each.strip() for each in (value if isinstance(value, list) else [value])):
            raise UsageError(
                f"{name.replace('_', '-')} is empty: name what you mean, or leave it out. A shell's variable that is "
                "not set looks like this"
            )


def check_drive(arguments: argparse.Namespace, defaults: Iterable[str]) -> None:
    """Raise UsageError for words about a drive where there is none."""
    useless = [f"--{name}" for name in defaults if getattr(arguments, name) != DRIVE_DEFAULTS[name]]
    if useless and arguments.track is None:
        raise UsageError(f"{', '.join(useless)} is about a drive; say where, with --track NAMES")
