"""``robostig pack``: a recording in a few large files."""

from __future__ import annotations

import argparse
import logging
import shlex

from robostig.cli.arguments import RECORDED, Commands, UsageError, add_command, add_json, add_on_error
from robostig.cli.output import print_json

__all__ = ["add", "run"]


def add(commands: Commands) -> None:
    """Add the command and its flags."""
    command = add_command(
        commands,
        "pack",
        run,
        "pack a recorded drive into a few large files (RecordIO), which come quicker from S3 than many small ones",
        "robostig pack recording --out packed --shard-mb 256",
    )
    command.add_argument("recording", metavar="RECORDING", nargs="+", help=f"{RECORDED}; several become one")
    command.add_argument("--out", metavar="DIR", required=True, help="folder to write; it must not be there yet")
    command.add_argument(
        "--shard-mb", metavar="MB", type=float, default=256.0, help="megabytes that a file has at most; default 256"
    )
    add_on_error(command)
    add_json(command, "what was packed")


def run(arguments: argparse.Namespace) -> None:
    """Run it."""
    if not arguments.shard_mb > 0.0:
        raise UsageError(f"--shard-mb is {arguments.shard_mb:g}; a file has more than 0 megabytes")
    from robostig.driving_log import pack_driving_log, read_driving_log

    log = read_driving_log(arguments.recording, on_error=arguments.on_error)
    logging.info(log.describe())
    files = pack_driving_log(log, arguments.out, shard_mb=arguments.shard_mb)
    pictures = sum(int(log.locate_pictures(camera).sum()) for camera in log.pictures)
    if arguments.json:
        print_json(
            {"folder": arguments.out, "rows": len(log), "rows_left_out": len(log.skipped), "pictures": pictures,
             "drives": len(log.drives), "cameras": list(log.pictures), "files": files}
        )  # fmt: skip
        return
    print(
        f"{len(log):,} rows and {pictures:,} pictures are in {files:,} files in {arguments.out}; {len(log.skipped):,} "
        f"rows left out\ntrain on it: robostig train --data {shlex.quote(arguments.out)}"
    )
