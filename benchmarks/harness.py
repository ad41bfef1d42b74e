"""What the benchmarks share: sides measured in turns, medians with their spread, a table, and a file of JSON.

A benchmark makes a :class:`Report`, measures with :func:`measure_in_turns`, adds what it found, and ends with
:meth:`Report.finish`. ``python -m benchmarks`` runs them all and writes ``RESULTS.md`` from those files.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import sys
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NoReturn, Optional, Sequence

import numpy as np
from tqdm import tqdm

from robostig._files import replace_file
from robostig.driving_log import LOG_NAME
from robostig.simulation import load_track, record

__all__ = [
    "DEFAULT_DATA",
    "NOT_AVAILABLE",
    "REFUSAL",
    "Comparison",
    "Figure",
    "Report",
    "find_log",
    "make_parser",
    "measure_in_turns",
    "refuse",
    "require_torch",
]

# A driving log of Udacity's simulator; benchmarks record one on the built-in track where it is absent.
DEFAULT_DATA = os.environ.get("ROBOSTIG_DATA", str(Path(__file__).resolve().parents[2] / "shared" / "data" / "lake"))

NOT_AVAILABLE = 2  # the exit status of what cannot be measured here, as of a wrong flag
REFUSAL = "cannot be measured here: "  # how the line begins that says why

_PACKAGES = ("robostig", "mxnet", "torch", "numpy", "opencv-python", "multi-model-server")


@dataclass(frozen=True)
class Figure:
    """One quantity, measured a number of times.

    Parameters
    ----------
    name
        Of the side or the quantity, as a table shows it.
    values
        One a repetition.
    unit
        Such as ``"ms"`` or ``"images/s"``.
    """

    name: str
    values: Sequence[float]
    unit: str

    @property
    def median(self) -> float:
        """The value that half of the repetitions stayed below."""
        return float(np.median(self.values))

    def __str__(self) -> str:
        """Median, and in brackets the quartiles: what half of the repetitions lay between."""
        return _describe_spread(self.values, f" {self.unit}")


@dataclass(frozen=True)
class Comparison:
    """Two sides that did the same work in turns.

    Parameters
    ----------
    name
        What was measured, such as ``"nvidia, 2 threads"``.
    ours, peer
        As many values each, of the same unit, in the order of the rounds.
    goal
        The ratio to reach, if there is one.
    more_is_better
        Whether the unit counts work (images a second) and not time.
    """

    name: str
    ours: Figure
    peer: Figure
    goal: Optional[float] = None
    more_is_better: bool = True

    @property
    def ratios(self) -> np.ndarray:
        """How many times as good ours was, a round."""
        ours, peer = np.asarray(self.ours.values), np.asarray(self.peer.values)
        return ours / peer if self.more_is_better else peer / ours

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios."""
        return float(np.median(self.ratios))

    def describe_ratio(self) -> str:
        """Return the median of the rounds' ratios, and in brackets their quartiles."""
        return _describe_spread(self.ratios)

    @property
    def is_met(self) -> Optional[bool]:
        """Whether the goal is reached; None without one."""
        return None if self.goal is None else self.ratio >= self.goal


@dataclass
class Report:
    """What one benchmark found.

    Parameters
    ----------
    name
        The benchmark's file, without ``.py``.
    title
        One line: what against what.
    arguments
        As parsed by :func:`make_parser`'s parser.
    """

    name: str
    title: str
    arguments: argparse.Namespace
    comparisons: List[Comparison] = field(default_factory=list)
    figures: List[Figure] = field(default_factory=list)
    notes: List[str] = field(default_factory=list)

    def add(self, finding: Any) -> None:
        """Add a comparison or a figure, and print it."""
        if isinstance(finding, Comparison):
            self.comparisons.append(finding)
            goal = "" if finding.goal is None else f", goal {finding.goal:g}: {'met' if finding.is_met else 'NOT MET'}"
            print(f"{finding.name}")
            for side in (finding.ours, finding.peer):
                print(f"    {side.name:42s} {side}")
            print(f"    {'times as good':42s} {finding.describe_ratio()}{goal}", flush=True)
        else:
            self.figures.append(finding)
            print(f"{finding.name}: {finding}", flush=True)

    def note(self, text: str) -> None:
        """Add a sentence: what was checked, what bounds a figure, what each change gave."""
        self.notes.append(text)
        print(text, flush=True)

    def finish(self) -> int:
        """Write the file that ``--json`` names, if it does, and return the exit status."""
        if self.arguments.json:
            with replace_file(Path(self.arguments.json)) as file:
                file.write((json.dumps(self.to_dict(), indent=2) + "\n").encode())
        return 0

    def to_dict(self) -> Dict[str, Any]:
        """Return the findings and what they were measured on, as plain values."""
        return {
            "name": self.name,
            "title": self.title,
            "command": f"python benchmarks/{self.name}.py" + "".join(f" {each}" for each in self._options()),
            "date": date.today().isoformat(),
            "machine": describe_machine(),
            "versions": find_versions(),
            "comparisons": [
                {
                    **asdict(each),
                    "ours": {**asdict(each.ours), "values": list(map(float, each.ours.values))},
                    "peer": {**asdict(each.peer), "values": list(map(float, each.peer.values))},
                    "ratio": each.ratio,
                    "is_met": each.is_met,
                }
                for each in self.comparisons
            ],
            "figures": [{**asdict(each), "values": list(map(float, each.values))} for each in self.figures],
            "notes": self.notes,
        }

    def _options(self) -> List[str]:
        return ["--quick"] if self.arguments.quick else []


def make_parser(description: Optional[str]) -> argparse.ArgumentParser:
    """Return a parser with what every benchmark takes: ``--quick``, ``--json``, ``--data``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions: under a minute, and noisier")
    parser.add_argument("--json", metavar="FILE", help="write what was found to this file too")
    parser.add_argument("--data", metavar="DIR", default=DEFAULT_DATA, help="a driving log (default: %(default)s)")
    return parser


def find_log(data: str, scratch: Path) -> Path:
    """Return the folder of a driving log: the one named, or one recorded in ``scratch`` if there is none."""
    if (Path(data) / LOG_NAME).is_file():
        return Path(data)
    print(f"no {LOG_NAME} in {data}: driving on the built-in track instead", flush=True)
    return record(scratch / "recording", [load_track("lake")])


def refuse(reason: str) -> NoReturn:
    """End the process with status 2: this cannot be measured here, and why."""
    print(f"{REFUSAL}{reason}", file=sys.stderr)
    raise SystemExit(NOT_AVAILABLE)


def require_torch() -> None:
    """End the process, saying what to install, where PyTorch is missing."""
    if importlib.util.find_spec("torch") is None:
        refuse('PyTorch, which is measured against, is not installed: pip install "robostig[bench]", or make bench')


def measure_in_turns(
    sides: Mapping[str, Callable[[], float]], repeats: int, label: str = "", *, warm_up: bool = True
) -> Dict[str, List[float]]:
    """Measure several sides in turns, so that what else the machine does meets them alike.

    Parameters
    ----------
    sides
        Name to a function that does one round of work and returns its measure, such as images a second.
    repeats
        Rounds. Every other one goes through the sides in reverse order.
    label
        What the progress bar says.
    warm_up
        Whether each is called once more before the first round, and that measure dropped.

    Returns
    -------
    dict
        Name to one value a round.
    """
    values: Dict[str, List[float]] = {name: [] for name in sides}
    with tqdm(total=(repeats + warm_up) * len(sides), desc=label, leave=False, disable=None) as bar:
        for measure in sides.values() if warm_up else ():
            measure()
            bar.update()
        for turn in range(repeats):
            for name in list(sides)[:: -1 if turn % 2 else 1]:
                values[name].append(sides[name]())
                bar.update()
    return values


def describe_machine() -> str:
    """Return the processor, how many of its cores may be used, the memory and the system."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processor, memory = platform.processor() or platform.machine(), ""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
        named = {key.strip(): value.strip() for key, value in lines.items()}
        processor = named.get("model name", processor)
        vectors = "AVX-512" if "avx512f" in named.get("flags", "").split() else "AVX2"
        processor += f" with {vectors}"
        kib = int(Path("/proc/meminfo").read_text().split("MemTotal:")[1].split()[0])
        memory = f", {kib / 2**20:.0f} GiB"
    except (OSError, IndexError):  # no Linux
        pass
    return f"{processor}, {cores} cores{memory}, {platform.system()}"


def find_versions() -> Dict[str, str]:
    """Return the versions of what was measured, as far as it is installed."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions


def _describe_spread(values: Sequence[float], unit: str = "") -> str:
    """Return the median, and in brackets the quartiles if values differ."""
    low, median, high = map(_format, np.percentile(values, [25, 50, 75]))
    return f"{median}{unit}" + ("" if len(set(values)) == 1 else f" ({low} to {high})")


def _format(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - int(np.floor(np.log10(abs(value)))))}f}"


if __name__ == "__main__":
    sys.exit(__doc__)
