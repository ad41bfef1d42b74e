"""``robostig models``: the zoo as a list."""

from __future__ import annotations

import argparse

from robostig.cli.arguments import Commands, add_command, add_json
from robostig.cli.output import print_json, print_table

__all__ = ["add", "run"]


def add(commands: Commands) -> None:
    """Add the command and its flags."""
    command = add_command(commands, "models", run, "list the models of the zoo", "robostig models 'n*' --json")
    command.add_argument("pattern", nargs="?", default="*", help="which names, as in a shell; default all")
    add_json(command, "the list")


def run(arguments: argparse.Namespace) -> None:
    """Run it."""
    from robostig.models import get_spec, list_models

    specs = [get_spec(name) for name in list_models(arguments.pattern)]
    if arguments.json:
        print_json(
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
    print_table(rows)
