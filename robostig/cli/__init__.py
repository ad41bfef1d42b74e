"""The ``robostig`` command. What it prints on stdout is the answer; progress and warnings go to stderr.

Each command is a module: ``add`` adds its flags, ``run`` does it. What takes long to import, it imports when it runs.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
from typing import Callable, Optional, Sequence

import robostig
from robostig._files import describe_error
from robostig.cli import (
    compare,
    drive,
    evaluate,
    explain,
    export,
    inspect_,
    models,
    pack,
    record,
    serve,
    simulate,
    train,
    tune,
)
from robostig.cli.arguments import UsageError, check_words

__all__ = ["main"]

# As they are listed.
COMMANDS = (
    models,
    record,
    pack,
    inspect_,
    train,
    tune,
    evaluate,
    explain,
    compare,
    export,
    drive,
    serve,
    simulate,
)
RESUMABLE = ("train", "tune", "compare")


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
    from tqdm.contrib.logging import logging_redirect_tqdm  # brings asyncio along

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    run: Callable[[argparse.Namespace], None] = arguments.run
    with contextlib.suppress(ValueError):  # not in the main thread
        # Unfinished files are then removed, and servers ended, as with Ctrl-C; also when the terminal is closed.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup has it
            signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    try:
        check_words(arguments)
        with logging_redirect_tqdm():
            run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has gone, as in `robostig models | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except UsageError as error:
        print(f"robostig {arguments.command}: {error}", file=sys.stderr)
        return 2
    except (ValueError, OSError, ImportError) as error:
        print(f"robostig {arguments.command}: {describe_error(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        resumed = "; the same command goes on from the last finished epoch" if arguments.command in RESUMABLE else ""
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

    for command in COMMANDS:
        command.add(commands)
    return parser
