"""Reading row by row: what each reader shares in telling good rows from bad ones."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, List, Sequence, Tuple, TypeVar, Union

import numpy as np

from robostig.driving_log.log import SkippedRow
from robostig.picture import inspect_picture

__all__ = ["BadRowError", "LeftOutError", "check_number", "check_picture", "check_steering", "sift_rows"]

_FILES_AT_ONCE = 16
_ROWS_AT_ONCE = 2048

Item = TypeVar("Item")
Result = TypeVar("Result")


class BadRowError(Exception):
    """A row that cannot be used.

    Parameters
    ----------
    kind
        Of fault, in a few words, by which such rows are counted.
    detail
        What came, what is allowed and what to do.
    error
        What to raise where bad rows are not to be left out.
    """

    def __init__(self, kind: str, detail: str, error: type = ValueError) -> None:
        super().__init__(detail)
        self.kind, self.detail, self.error = kind, detail, error


class LeftOutError(BadRowError):
    """A row that is left out and counted whatever happens to bad ones: there is nothing to mend in it."""


def sift_rows(
    source: Path,
    rows: Sequence[Tuple[int, Item]],
    read: Callable[[Item], Result],
    on_error: str,
    *,
    log: str = "",
) -> Tuple[List[Result], List[SkippedRow]]:
    """Read rows on threads, for where files are far away, as on a bucket that is mounted, many are opened at once.

    Parameters
    ----------
    source
        The file that the rows are of.
    rows
        Each row's number in the file, and what ``read`` takes.
    read
        Returns a row, or raises BadRowError.
    on_error
        As in :func:`~robostig.driving_log.read_driving_log`.
    log
        The file, as :attr:`SkippedRow.log` names it.

    Returns
    -------
    tuple
        The rows that can be used, in order, and those that were left out.

    Raises
    ------
    ValueError, FileNotFoundError
        At the first bad row, unless they are skipped.
    """

    def attempt(row: Tuple[int, Item]) -> Union[Result, BadRowError]:
        try:
            return read(row[1])
        except BadRowError as bad:
            return bad

    kept: List[Result] = []
    skipped: List[SkippedRow] = []
    with ThreadPoolExecutor(_FILES_AT_ONCE, thread_name_prefix="inspect") as pool:
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            some = rows[start : start + _ROWS_AT_ONCE]
            for (number, _), result in zip(some, pool.map(attempt, some)):
                if not isinstance(result, BadRowError):
                    kept.append(result)
                    continue
                if on_error == "raise" and not isinstance(result, LeftOutError):
                    raise result.error(
                        f"{source}, row {number}: {result.detail}. Mend the row, or leave such rows out with "
                        "on_error='skip' (--on-error skip)"
                    )
                detail = f"{log}: {result.detail}" if log else result.detail
                skipped.append(SkippedRow(number, result.kind, detail, log))
    return kept, skipped


def check_number(name: str, text: Union[str, float]) -> float:
    """Return what is a number, or reads like one, as a float. Raises BadRowError if no float32 holds it."""
    try:
        value = float(text)
    except OverflowError:  # an integer of hundreds of digits
        value = math.inf
    if not abs(value) <= np.finfo(np.float32).max:
        raise BadRowError(f"{name} is not finite", f"{name} is {text}, which is not finite")
    return value


def check_steering(value: float) -> float:
    """Return a steering as it is. Raises BadRowError unless it is within -1..1."""
    if abs(value) > 1.0:
        raise BadRowError(
            "steering out of range",
            f"steering is {value:g}, outside -1..1 (1.0 is full lock, 25 degrees); divide degrees by 25",
        )
    return value


def check_picture(path: str, camera: str = "center") -> str:
    """Return a picture's path as it is. Raises BadRowError if its first and last bytes are not those of a picture."""
    try:
        fault = inspect_picture(path)
    except (FileNotFoundError, PermissionError) as error:  # a link that leads nowhere is the usual one
        detail = f"the {camera} picture {path} cannot be read ({error.strerror})"
        raise BadRowError(f"{camera} picture cannot be read", detail, type(error)) from error
    if fault:
        raise BadRowError(f"{camera} picture damaged", f"the {camera} picture {path} {fault}")
    return path
