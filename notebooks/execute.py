"""Run the notebooks from the first to the last, and keep their results in them: ``make notebooks RUN=1``."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

FOLDER = Path(__file__).resolve().parent


def execute(path: Path) -> None:
    """Run a notebook in its folder, and write it when all its cells are done."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        coalesce_streams=True,  # what a cell prints little by little is one text
    ).execute()
    notebook.metadata["language_info"] = {"name": "python"}  # not which Python ran it
    partial = path.with_suffix(".partial")
    nbformat.write(notebook, partial)
    partial.replace(path)


def main() -> int:
    """Run those named on the command line, or all; return 1 if a cell fails."""
    for path in [Path(name) for name in sys.argv[1:]] or sorted(FOLDER.glob("*.ipynb")):
        started = time.monotonic()
        print(f"{path.name} ...", end=" ", flush=True)
        try:
            execute(path)
        except CellExecutionError as error:
            print(f"failed, and is left as it was:\n{error}", file=sys.stderr)
            return 1
        print(f"{time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
