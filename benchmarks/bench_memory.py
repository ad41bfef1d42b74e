"""Memory of training against the length of the log: it should not grow.

Trains for one epoch on a recording, and on the same recording several times over, each in a process of its own, and
prints the peak of the process's private memory (``RssAnon`` in Linux's ``/proc/PID/status``: the pages of the mapped
frame cache, which the system may drop at any time, are not in it).

    python benchmarks/bench_memory.py --data recording [--times 10] [--models nvidia,comma] [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path

from robostig.driving_log import LOG_NAME, read_driving_log

DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "lake"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("ROBOSTIG_DATA", str(DEFAULT_DATA)), help="a driving log")
    parser.add_argument("--times", type=int, default=10, help="how many times as long the long log is")
    parser.add_argument("--models", default="nvidia,comma", help="names with commas between")
    parser.add_argument("--quick", action="store_true", help="a fifth of the rows: under a minute")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    if not (Path(arguments.data) / LOG_NAME).is_file():
        print(f"skipped: no {LOG_NAME} in {arguments.data}; give --data DIR or set ROBOSTIG_DATA")
        return 0
    rows = len(read_driving_log(arguments.data)) // (5 if arguments.quick else 1)
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        folders = {
            times: repeat_recording(Path(arguments.data), rows, times, Path(scratch) / f"x{times}")
            for times in (1, arguments.times)
        }
        for model in arguments.models.split(","):
            short, long = (measure(folder, model, Path(scratch)) for folder in folders.values())
            results[model] = {"peak_mb": short, "peak_mb_long": long, "ratio": long / short}
            print(
                f"{model}: peak private memory {short:.0f} MB with {rows:,} rows, {long:.0f} MB with "
                f"{arguments.times * rows:,}; ratio {long / short:.2f} (1.00 is flat)",
                flush=True,
            )
    if arguments.json:
        record = {"rows": rows, "times": arguments.times, "models": results}
        Path(arguments.json).write_text(json.dumps(record, indent=2) + "\n")
    return 0


def repeat_recording(source: Path, rows: int, times: int, target: Path) -> Path:
    """Write a recording that drives the first rows of another several times; pictures are links under later names."""
    log = read_driving_log(source)
    (target / "IMG").mkdir(parents=True)
    lines = []
    for turn in range(times):
        for row in range(rows):
            names = []
            for camera in log.pictures:
                moved = datetime(1970, 1, 1) + timedelta(days=turn, seconds=float(log.time_s[row]))
                names.append(f"IMG/{camera}_{moved:%Y_%m_%d_%H_%M_%S}_{moved.microsecond // 1000:03d}.jpg")
                os.symlink(os.path.abspath(log.pictures[camera][row]), target / names[-1])
            lines.append(",".join([*names, f"{log.steering[row]:.8g}", "1", "0", f"{log.speed_mph[row]:.5f}"]))
    (target / LOG_NAME).write_text("\n".join(lines) + "\n")
    return target


def measure(folder: Path, model: str, scratch: Path) -> float:
    """Train for an epoch in a process of its own; return the peak of its private memory in megabytes."""
    command = [sys.executable, "-m", "robostig.cli", "train", "--data", str(folder), "--model", model]
    command += ["--out", str(scratch / f"out-{folder.name}"), "--epochs", "1"]
    environment = {**os.environ, "ROBOSTIG_CACHE": str(scratch / "frames")}
    with open(scratch / "log.txt", "w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, read_private_mb(process.pid))
            time.sleep(0.02)
        if process.returncode:
            output.seek(0)
            raise SystemExit(f"training failed:\n{output.read()}")
    return peak


def read_private_mb(pid: int) -> float:
    """Return a process's anonymous resident memory in megabytes; 0 once it has ended."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) / 1000.0
    except FileNotFoundError:
        return 0.0
    return 0.0


if __name__ == "__main__":
    sys.exit(main())
