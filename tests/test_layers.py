"""Imports point down: what each room may know of the others, read from the source without running it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Iterable, Iterator, Set

import pytest

import robostig

PACKAGE = Path(robostig.__file__).parent
FLOORS = (
    ("_compat", "_files", "mesh", "picture"),
    ("packed_log", "threads"),
    ("config", "preprocessing", "metrics", "driving_log", "camera"),
    ("backend", "card", "split", "frame_cache", "augmentation", "figures", "overlay", "simulation", "animation"),
    (
        "convolution",
        "folding",
        "freezing",
        "fusion",
        "imagenet",
        "precision",
        "quantization",
        "tracing",
        "data",
        "workers",
        "channel",
        "inspection",
    ),
    ("artifact", "factors", "sheet"),
    ("models", "pilot", "endpoint"),
    ("training", "evaluation", "closed_loop", "roads", "export", "explanation"),
    ("pipeline", "video", "evidence"),
    ("comparison", "serving", "driving", "container", "tuning"),
    ("report", "entry_point", "local"),
    ("deployment",),
    ("cli",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
WITHOUT_MXNET = (
    *sum(FLOORS[:3], ()),
    "card",
    "split",
    "frame_cache",
    "augmentation",
    "figures",
    "overlay",
    "simulation",
    "inspection",
    "sheet",
)
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def list_imports(source: str) -> Set[str]:
    """List what a module imports, at its top and inside its functions, but not for type checkers alone."""
    return set(_walk(ast.parse(source)))


def _walk(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)
    children = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
        children = iter(node.orelse)
    for child in children:
        yield from _walk(child)


def list_rooms(imports: Iterable[str]) -> Set[str]:
    """List the rooms of the package among what is imported; the package itself, for its version, is none."""
    names = [name.split(".") for name in imports]
    rooms = {name[1] for name in names if name[0] == "robostig" and len(name) > 1}
    return {room for room in rooms if not room.startswith("__")}


def list_imports_of_room(room: str) -> Set[str]:
    """List what a room imports: one module, or all modules of a folder."""
    paths = list((PACKAGE / room).rglob("*.py")) or [PACKAGE / f"{room}.py"]
    return {name for path in paths for name in list_imports(path.read_text(encoding="utf-8"))}


@pytest.mark.parametrize(
    ("source", "rooms"),
    [
        ("import robostig", set()),
        ("from robostig import __version__", set()),
        ("import robostig.data", {"data"}),
        ("from robostig import data, cli", {"data", "cli"}),
        ("from robostig.models.registry import register", {"models"}),
        ("def f():\n    from robostig.data import x", {"data"}),
        ("if TYPE_CHECKING:\n    import robostig.data\nelse:\n    import robostig.cli", {"cli"}),
        ("try:\n    import robostig.data\nexcept ImportError:\n    pass", {"data"}),
    ],
)
def test_imports_are_found_wherever_they_stand(source, rooms):
    assert list_rooms(list_imports(source)) == rooms


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_point_down(path):
    own, imports = path.relative_to(PACKAGE).with_suffix("").parts[0], list_imports(path.read_text(encoding="utf-8"))
    assert own in FLOOR, f"robostig/{own} has no floor yet: place it in FLOORS, above all that it imports"
    assert not [name for name in imports if name.startswith(".")], "imports name the package, not dots"
    for room in list_rooms(imports) - {own}:
        assert room in FLOOR, f"robostig/{own} imports {room}, which has no floor"
        assert FLOOR[room] < FLOOR[own], f"{own} (floor {FLOOR[own]}) imports {room} (floor {FLOOR[room]})"


@pytest.mark.parametrize("room", WITHOUT_MXNET)
def test_the_lower_rooms_do_not_know_mxnet(room):
    known, todo = {room}, [room]
    while todo:  # nor through another room
        imports = list_imports_of_room(todo.pop())
        assert not {name for name in imports if name.split(".")[0] in ("mxnet", "gluoncv")}
        todo += list_rooms(imports) - known
        known |= list_rooms(imports)
    assert "backend" not in known


def test_a_model_knows_only_the_registry_beside_it():
    for path in sorted((PACKAGE / "models").glob("*.py")):
        if path.stem not in ("__init__", "registry"):
            beside = {
                name.split(".")[2] for name in list_imports(path.read_text()) if name.startswith("robostig.models.")
            }
            assert beside <= {"registry"}, path


def test_no_module_is_named_like_one_of_the_standard_library():
    import sys

    # Script mode puts the folder first on the path; Python 3.8 keeps no list of names.
    standard = getattr(sys, "stdlib_module_names", {"io", "queue", "random", "types", "logging", "select", "token"})
    assert not {path.stem for path in MODULES} & set(standard)
