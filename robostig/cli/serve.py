"""``robostig serve``: SageMaker's endpoints on this machine."""

from __future__ import annotations

import argparse
import contextlib
import functools
import logging
import sys
import time

from robostig.cli.arguments import WEIGHTS, Commands, UsageError, add_command, check_usage

__all__ = ["add", "run"]


def add(commands: Commands) -> None:
    """Add the command and its flags."""
    command = add_command(
        commands,
        "serve",
        run,
        "answer requests as SageMaker's endpoints do, with the packages of its inference image: one endpoint a model",
        "robostig serve out/nvidia out/comma --port 8080",
    )
    command.add_argument(
        "artifacts",
        metavar="ARTIFACT",
        nargs="+",
        help=f"folder of a trained model, {WEIGHTS}, or a model.tar.gz, whose code is run as SageMaker would run it",
    )
    command.add_argument(
        "--port", type=int, default=8080, help="of the first; the others take the next ones; 0: any; default 8080"
    )
    command.add_argument("--workers", metavar="N", type=int, default=1, help="processes that answer, each; default 1")
    command.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; 127.0.0.1 (default): this machine alone, 0.0.0.0: every network that it is in",
    )


def run(arguments: argparse.Namespace) -> None:
    """Run it."""
    from robostig.container import Server, check_port, find_environment, open_model

    if arguments.workers < 1:
        raise UsageError(f"--workers is {arguments.workers}; one or more processes have to answer")
    with contextlib.ExitStack() as stack:
        # Whatever can be wrong shows before anything starts.
        models = [stack.enter_context(open_model(artifact)) for artifact in arguments.artifacts]
        ports = [arguments.port and arguments.port + number for number in range(len(models))]
        for port in ports:
            check_usage(functools.partial(check_port, port, arguments.host))
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
