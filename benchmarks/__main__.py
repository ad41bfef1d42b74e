"""Run the benchmarks, each in a process of its own, and write ``benchmarks/RESULTS.md`` from what they find.

What each finds is kept in ``benchmarks/results/NAME.json``; the page is made of all of these, so that some can be
measured anew. One that cannot be measured here, or fails, is named on the page with its reason.

    python -m benchmarks [--quick] [--only NAME,...]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from tqdm import tqdm

from benchmarks.harness import NOT_AVAILABLE, REFUSAL
from benchmarks.page import render
from robostig._files import make_folder, replace_file

__all__ = ["BENCHMARKS", "main"]

HERE = Path(__file__).resolve().parent
BENCHMARKS = (
    *("training_step", "epoch", "plain", "loader", "cold_cache", "inference"),
    *("endpoint", "simulation", "scaling", "driving", "packed_log"),
)


def main(words: Optional[Sequence[str]] = None, folder: Path = HERE) -> int:
    """Run what is asked for; return 1 if anything failed.

    Parameters
    ----------
    words
        The command line's, if None.
    folder
        Where the page goes, and the folder of what it is made of.
    """
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="each in less than a minute, and noisier")
    parser.add_argument(
        "--only", metavar="NAME,...", type=_parse_names, default=BENCHMARKS, help=f"of {', '.join(BENCHMARKS)}"
    )
    arguments = parser.parse_args(words)
    results = make_folder(folder / "results")
    failed = []
    with tqdm(arguments.only, disable=None) as bar:
        for name in bar:
            bar.set_description(name)
            bar.write(f"\n=== {name}")
            started = time.monotonic()
            status, record = run(name, arguments.quick, bar)
            if "problem" in record:
                bar.write(f"not measured: {record['problem']}")
            if status not in (0, NOT_AVAILABLE):
                failed.append(name)
            bar.write(f"=== {name} took {time.monotonic() - started:.0f} s")
            _write(results / f"{name}.json", json.dumps(record, indent=2) + "\n")
    found = [results / f"{name}.json" for name in BENCHMARKS]
    _write(folder / "RESULTS.md", render([json.loads(path.read_text("utf-8")) for path in found if path.exists()]))
    print(f"wrote {folder / 'RESULTS.md'}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


def _parse_names(text: str) -> List[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        raise argparse.ArgumentTypeError(f"there is no {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    return names


def run(name: str, quick: bool, bar: Any) -> tuple[int, Dict[str, Any]]:
    """Run one benchmark; return its exit status, and what it found, or why there is nothing."""
    with tempfile.TemporaryDirectory() as scratch, open(Path(scratch) / "errors", "w+", encoding="utf-8") as errors:
        found = Path(scratch) / "found.json"
        command = [sys.executable, str(HERE / f"{name}.py"), "--json", str(found), *(["--quick"] if quick else [])]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                bar.write(line.rstrip())
        if process.returncode == 0:
            return 0, json.loads(found.read_text("utf-8"))
        errors.seek(0)
        said = [line.rstrip() for line in errors if line.strip()]
    if process.returncode != NOT_AVAILABLE:
        bar.write("\n".join(said[-40:]))
    problem = said[-1] if said else f"it ended with status {process.returncode} and no word"
    if problem.startswith(REFUSAL):
        problem = problem[len(REFUSAL) :]
    return process.returncode, {"name": name, "date": date.today().isoformat(), "problem": problem}


def _write(path: Path, text: str) -> None:
    with replace_file(path, "w") as file:
        file.write(text)


if __name__ == "__main__":
    sys.exit(main())
