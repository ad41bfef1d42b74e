"""The notebooks: as they are committed, and run anew from the first to the last with small settings.

They run as a reader runs them without an account: SageMaker's SDK, training toolkit and model server are real.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
from conftest import ROOT

nbformat = pytest.importorskip("nbformat", reason="Jupyter is in the default environment")
nbclient = pytest.importorskip("nbclient", reason="Jupyter is in the default environment")
pytest.importorskip("ipykernel", reason="Jupyter is in the default environment")
pytest.importorskip("sagemaker", reason="SageMaker's SDK is in the default environment")

FOLDER = ROOT / "notebooks"
NAMES = ("1_explore", "2_train_nvidia", "3_tune", "4_second_model", "5_choose_and_drive")
LARGEST = 1_500_000  # bytes
SMALL = {
    "1_explore": {"ROADS": 18},
    "2_train_nvidia": {"ROADS": 18, "HYPERPARAMETERS": {"epochs": 2}},
    "3_tune": {"ROADS": 18, "HYPERPARAMETERS": {"epochs": 1}, "JOBS": 2, "SEEDS": [1]},
    "4_second_model": {"ROADS": 18, "HYPERPARAMETERS": {"epochs": 1}},
    "5_choose_and_drive": {
        "ROADS": 18,
        "HYPERPARAMETERS": {"epochs": 1},
        "TRACKS": "lake:201",
        "LAPS": 0.03,
        "FILM_M": 20,
    },
}
SAYS = {  # what a run must have come to
    "1_explore": r"the random choice makes it look \d+\.\d times as good as it is",
    "2_train_nvidia": r"the endpoint steers [+-]0\.\d+",
    "3_tune": r"its model: s3://robostig-local/\S+/model\.tar\.gz",
    "4_second_model": r"they differ by at most \d\.\de-\d+ of full lock",
    "5_choose_and_drive": r"(nvidia|comma|center-only) drives 2\d m of lake:201 forward: \d+ intervention",
}
# Where things are on a machine, and not on another.
PATHS = re.compile(r"(?<![\w./])(/(home|root|Users|work|tmp|opt/pypi|usr/lib)/|[A-Z]:\\)|site-packages|ipykernel_\d")
PICTURES = {"image/png", "image/jpeg"}


def read(name: str) -> Any:
    return nbformat.read(FOLDER / f"{name}.ipynb", 4)


def list_outputs(notebook: Any) -> Iterator[Any]:
    for cell in notebook.cells:
        yield from cell.get("outputs", [])


def read_text(notebook: Any) -> str:
    """Return all that a notebook's cells print."""
    return "\n".join(output.get("text", "") for output in list_outputs(notebook))


def parse(cell: Any) -> ast.Module:
    """Return a cell's syntax tree, without the lines that are IPython's own."""
    return ast.parse(re.sub(r"^(\s*)%.*", r"\1pass", cell.source, flags=re.MULTILINE))


def find_faults(notebook: Any) -> List[str]:
    """Return what a reader should not see."""
    faults = [f"error: {output.evalue}" for output in list_outputs(notebook) if output.output_type == "error"]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            for node in parse(cell).body:
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    faults.append(f"the function {node.name} belongs in the package")
    text = json.dumps([[cell.source, cell.get("outputs", [])] for cell in notebook.cells])
    faults += [f"a path of one machine: {text[max(0, m.start() - 60) : m.end() + 60]}" for m in PATHS.finditer(text)]
    return faults


@pytest.mark.parametrize("name", NAMES)
def test_it_is_committed_executed_and_fit_to_be_read_on_the_web(name):
    notebook = read(name)
    assert not find_faults(notebook)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1)), "run all cells, from the first to the last, in a fresh kernel"
    assert (FOLDER / f"{name}.ipynb").stat().st_size < LARGEST
    assert re.search(SAYS[name].replace("2\\d m", "1\\d\\d m"), read_text(notebook))
    assert notebook.metadata.kernelspec.name == "python3"  # the stock kernel's name, everywhere


@pytest.mark.parametrize("name", NAMES)
def test_each_picture_and_table_has_a_caption(name):
    cells = read(name).cells
    figures = tables = 0
    for cell, following in zip(cells, cells[1:]):
        shown = [output.get("data", {}) for output in cell.get("outputs", [])]
        if any(PICTURES & set(data) or "<img " in data.get("text/html", "") for data in shown):
            figures += 1
            assert following.source.startswith(f"*Figure {figures}. ") and following.source.endswith("*")
        if any("<table" in data.get("text/html", "") for data in shown):
            tables += 1
            assert following.source.startswith(f"*Table {tables}. ") and following.source.endswith("*")
    assert figures or tables


@pytest.mark.parametrize("name", NAMES)
def test_its_links_lead_somewhere_and_to_the_next_step(name):
    text = "\n".join(cell.source for cell in read(name).cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", text)
    missing = [link for link in links if not link.startswith("https://") and not (FOLDER / link).exists()]
    assert not missing
    following = NAMES[NAMES.index(name) + 1 :]
    assert f"{following[0]}.ipynb" in links if following else "../README.md" in links
    assert f"notebooks/{NAMES[0]}.ipynb" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", NAMES[1:])
def test_nothing_but_the_session_depends_on_the_switch(name):
    cells = [cell.source for cell in read(name).cells if cell.cell_type == "code"]
    uses = [line for source in cells for line in source.splitlines() if "LOCAL" in line]
    assert uses == [
        "LOCAL = True  # False: your AWS account",
        'session = open_session(local=LOCAL, folder="out/account")',
    ]


@pytest.mark.parametrize(
    "cell, fault",
    [
        ("def plot():\n    pass", "the function plot belongs"),
        ('open("/home/somebody/recording")', "a path of one machine"),
        ('print("saw /root/.cache/robostig")', "a path of one machine"),
    ],
)
def test_faults_are_found(cell, fault):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    (found,) = find_faults(notebook)
    assert fault in found


@pytest.fixture(scope="module")
def workshop(
    tmp_path_factory: pytest.TempPathFactory, training_environment: Any, serving_environment: Any
) -> Iterator[Path]:
    """Return a folder with all notebooks, in which they leave things for each other."""
    folder = tmp_path_factory.mktemp("workshop")
    for name in NAMES:
        shutil.copy(FOLDER / f"{name}.ipynb", folder)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def set_parameters(notebook: Any, values: Dict[str, Any]) -> None:
    """Put a cell behind the one tagged so, as papermill does."""
    (place,) = (number for number, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
    known = {target.id for node in parse(notebook.cells[place]).body for target in node.targets}
    assert set(values) <= known
    lines = [f"{name} = {value!r}" for name, value in values.items()]
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell("\n".join(lines)))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", NAMES)
def test_it_runs(name, workshop, monkeypatch):
    for variable in ("AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(variable, raising=False)  # without an account
    notebook = nbformat.read(workshop / f"{name}.ipynb", 4)
    set_parameters(notebook, SMALL[name])
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": workshop}}
    )
    client.execute()  # raises for the first cell that fails
    assert not find_faults(notebook)
    assert re.search(SAYS[name], read_text(notebook))
