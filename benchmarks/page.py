"""The page of results: Markdown from what the benchmarks wrote as JSON."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any, Iterator, List, Mapping, Sequence

from benchmarks.harness import Comparison, Figure

__all__ = ["render"]

FOLDER = Path(__file__).resolve().parent
CHANGES = FOLDER / "changes.md"


def render(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the page, which ends with what ``changes.md`` tells of how it came about.

    Parameters
    ----------
    records
        One a benchmark, in the order of the page: what :meth:`Report.to_dict` returns; or ``name``, ``date`` and
        ``problem``, which says why there is nothing else.
    """
    measured = [each for each in records if "problem" not in each]
    conditions = sorted({_describe_conditions(each) for each in measured})
    lines = [
        "# What was measured",
        "",
        "`make bench` writes this page; `python -m benchmarks --only NAME` measures one part of it anew. Each command "
        "below shows such figures by itself, and has a form of less than a minute, `--quick`.",
        "",
        "Both sides of a comparison did the same work in turns, in one run. A cell is the median of the rounds, with "
        "their quartiles in brackets: half of the rounds lie between. *Times as good* is the median of the rounds' "
        "ratios, more than 1 where ours is better: more work in a second, or less time, or memory.",
        "",
        *(line for each in conditions if len(conditions) == 1 for line in (f"Measured on {each}.", "")),
        "| benchmark | goals met | |",
        "|---|---|---|",
        *map(_summarize, records),
    ]
    for record in records:
        lines += ["", *_render_section(record, len(conditions) > 1)]
    lines += ["", CHANGES.read_text(encoding="utf-8")]
    return "\n".join(lines).rstrip() + "\n"


def _describe_conditions(record: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return f"{record['machine']}, with {versions}"


def _summarize(record: Mapping[str, Any]) -> str:
    name = record["name"]
    if "problem" in record:
        return f"| [{name}](#{name}) | | {_describe_problem(record)} |"
    goals = [each["is_met"] for each in record["comparisons"] if each["goal"] is not None]
    count = f"{sum(goals)} of {len(goals)}" if goals else "none set"
    return f"| [{name}](#{name}) | {count} | {_escape(record['title'])} |"


def _describe_problem(record: Mapping[str, Any]) -> str:
    return f"not measured on {record['date']}: {_escape(record['problem'])}"


def _render_section(record: Mapping[str, Any], name_conditions: bool) -> Iterator[str]:
    name = record["name"]
    yield from (f"## {name}", "", *_read_description(name))
    if "problem" in record:
        yield f"**{_describe_problem(record)[0].upper()}{_describe_problem(record)[1:]}**"
        return
    where = f", on {_describe_conditions(record)}" if name_conditions else ""
    yield from (f"`{record['command']}`, {record['date']}{where}", "")
    if record["comparisons"]:
        yield from ("| what | ours | peer | times as good | goal | met |", "|---|---|---|---|---|---|")
        yield from map(_render_comparison, record["comparisons"])
        yield ""
    if record["figures"]:
        yield from ("| otherwise measured | |", "|---|---|")
        for values in record["figures"]:
            figure = Figure(**values)
            yield f"| {_escape(figure.name)} | {figure} |"
        yield ""
    for note in record["notes"]:
        yield f"- {_escape(note)}"


def _read_description(name: str) -> List[str]:
    """Return what a benchmark's own docstring says of it, without the command at its end."""
    text = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))) or ""
    paragraphs = [" ".join(each.split()) for each in text.split("\n\n") if not each.lstrip().startswith("python ")]
    return [line for each in paragraphs for line in (each.replace("``", "`"), "")]


def _render_comparison(values: Mapping[str, Any]) -> str:
    comparison = Comparison(
        values["name"], Figure(**values["ours"]), Figure(**values["peer"]), values["goal"], values["more_is_better"]
    )
    goal = "" if comparison.goal is None else f"{comparison.goal:g}"
    met = {None: "", True: "yes", False: "**no**"}[comparison.is_met]
    sides = " | ".join(f"{_escape(side.name)}: {side}" for side in (comparison.ours, comparison.peer))
    return f"| {_escape(comparison.name)} | {sides} | {comparison.describe_ratio()} | {goal} | {met} |"


def _escape(text: str) -> str:
    """Return a text as it has to be within a table's cell or a list, on one line."""
    return " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;")
