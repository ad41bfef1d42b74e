"""What a command ended with, and whether it is what it should be."""

from __future__ import annotations

import json
from typing import Any, Tuple

import pytest

QUICK = ["--epochs", "1", "--batch-size", "16", "--gap-s", "0.2", "--device", "cpu"]


def parse(text: str) -> Any:
    return json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))


def assert_one_line(outcome: Tuple[int, str, str], status: int, message: str) -> None:
    got, out, err = outcome
    assert (got, out) == (status, "") and message in err
    assert err.startswith("robostig ") and err.count("\n") == 1
