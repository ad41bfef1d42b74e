"""What is printed on stdout: tables, scores, JSON."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Sequence

from robostig.metrics import DEGREES

__all__ = ["print_json", "print_scores", "print_table"]


def print_scores(scores: Dict[str, Any], latency_ms: Dict[str, float]) -> None:
    """Print how far from a driver a model is, and how quickly it answers."""
    rows: List[List[str]] = []
    for name, value in scores.items():
        if value is None:
            continue
        if name == "frames":
            rows.append([name, f"{value:,}", ""])
        elif name.startswith("whiteness"):
            rows.append([name, f"{value:.2f}", "degrees/s"])
        elif name in ("correlation", "rmse_to_mean_baseline"):
            rows.append([name, f"{value:.3f}", ""])
        else:
            rows.append([name, f"{value:.5f}", f"{value * DEGREES:.2f} degrees"])
    rows.append(
        ["latency", f"{latency_ms['p50']:.2f}", f"ms (median; {latency_ms['p99']:.2f} ms at the 99th percentile)"]
    )
    print_table(rows)


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows with their columns aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def print_json(value: Any) -> None:
    """Print plain values as JSON."""
    print(json.dumps(value, indent=2, allow_nan=False))
