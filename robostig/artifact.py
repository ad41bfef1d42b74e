"""What a trained model is on disk; the only module that knows the files' names.

=====================  ==========================================================================================
``model-symbol.json``  the network as MXNet exports it, normalisation included
``model-0000.params``  its parameters
``model-shapes.json``  the input's name and shape, as MXNet's model server wants it
``robostig.json``      the facts: model, input, configuration, data, versions, scores, and the other files' digests
``README.md``          the facts as people read them: the model's card
``code/``              in what SageMaker is to serve: this package and the script that its model server looks for
=====================  ==========================================================================================

The facts are written last and name the digests of the first three, so that a folder that was cut short, or whose files
belong to different models, is never taken for an artifact. Nothing is pickled.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
import logging
import os
import platform
import shutil
import tarfile
import tempfile
import warnings
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Tuple, Union

import numpy as np

import robostig
from robostig._files import make_folder, replace_file
from robostig.backend import count_parameters, find_context, mx
from robostig.card import MARK, make_card
from robostig.folding import fold_constants, fold_scaling, interleave_channels, pair_columns
from robostig.fusion import fuse_activations
from robostig.preprocessing import InputSpec, PixelLayout
from robostig.quantization import quantize_dense

__all__ = [
    "WEIGHTS",
    "Artifact",
    "add_code",
    "add_facts",
    "find_artifact",
    "list_files",
    "load_artifact",
    "load_parameters",
    "pack",
    "read_facts",
    "save_artifact",
]

logger = logging.getLogger(__name__)

FACTS, CARD = "robostig.json", "README.md"
SYMBOL, PARAMETERS, SHAPES = "model-symbol.json", "model-0000.params", "model-shapes.json"
FORMAT = 1
WEIGHTS = Path(robostig.__file__).resolve().parent / "weights"  # the artifacts that come with the package
_DTYPES = ("float32", "int8")  # what a loaded network's large dense layers may compute with
CODE = "code"  # where SageMaker's model server looks for the script, and all that it puts on the path

# What the model server imports: the script that SageMaker's SDK names, and the name that is looked for without one.
_SCRIPTS = ("entry_point.py", "inference.py")
_SCRIPT = """\"\"\"What SageMaker's model server calls; the package is beside this file.\"\"\"

from robostig.serving import model_fn, transform_fn  # noqa: F401
"""


@dataclass(frozen=True)
class Artifact:
    """A trained model, loaded.

    Parameters
    ----------
    folder
        Where it was read from.
    net
        (N, 3, H, W) float32, 0..255 -> (N, 1) steering.
    spec
        How to preprocess a camera frame for it.
    facts
        What ``robostig.json`` says.
    layout
        If not None, the network takes pixels as they lie in a picture, as :meth:`PixelLayout.arrange` gives them.
    """

    folder: Path
    net: mx.gluon.SymbolBlock
    spec: InputSpec
    facts: Mapping[str, Any]
    layout: Optional[PixelLayout] = None

    @property
    def model(self) -> str:
        """The registered name of the network."""
        return str(self.facts["model"])

    def read_graph(self) -> Tuple[Any, Dict[str, Any]]:
        """Return the network as it was saved, before anything is folded: its symbol, and its parameters by name."""
        saved = mx.nd.load(str(self.folder / PARAMETERS))
        parameters = {name.split(":", 1)[1]: value for name, value in saved.items()}  # "arg:" or "aux:" is before them
        return _read_symbol(self.folder / SYMBOL), parameters


def save_artifact(
    folder: Union[str, Path],
    net: mx.gluon.HybridBlock,
    spec: InputSpec,
    facts: Mapping[str, Any],
    *,
    with_code: bool = False,
) -> Path:
    """Write a trained network; an artifact that is there already is replaced.

    Parameters
    ----------
    folder
        Made if it is not there. Other files in it are left alone, a ``README.md`` of somebody else's among them.
    net
        Initialised.
    spec
        How frames were preprocessed for it.
    facts
        Plain values; ``"model"`` is needed. Versions, digests and the time are added.
    with_code
        Whether to put the code beside it that SageMaker's model server needs, as :func:`add_code` does.

    Returns
    -------
    pathlib.Path
        The folder.
    """
    if "model" not in facts:
        raise ValueError(f"the facts need a 'model', the name of the network; they have: {', '.join(facts) or 'none'}")
    folder = make_folder(folder)
    shape = (1, 3, spec.height, spec.width)
    # Beside, then renamed. A folder of its own: the export's names are fixed, and a killed run leaves one thing behind.
    beside = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder))
    try:
        if not net._active:
            net.hybridize()  # trained layer by layer
        net(mx.nd.zeros(shape, ctx=find_context(net)))  # export wants a graph, and the graph a shape
        try:
            net.export(str(beside / "model"), epoch=0)
        except mx.MXNetError as error:  # such as a full disk
            raise OSError(f"{folder} cannot be written: {str(error).strip().splitlines()[-1]}") from error
        (beside / SHAPES).write_text(json.dumps([{"name": "data", "shape": list(shape)}]) + "\n")
        files = {name: _digest(beside / name) for name in (SYMBOL, PARAMETERS, SHAPES)}
        record = {
            "format": FORMAT,
            **facts,
            "input": spec.to_dict(),
            "parameters": count_parameters(net),
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "versions": {
                "robostig": robostig.__version__,
                "mxnet": mx.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
            "files": files,
        }
        for name, content in _render(record).items():
            (beside / name).write_bytes(content)
        (folder / FACTS).unlink(missing_ok=True)
        if with_code:
            add_code(folder)
        for name in (SYMBOL, PARAMETERS, SHAPES, *([CARD] if _may_replace_card(folder) else []), FACTS):
            os.replace(beside / name, folder / name)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder


def add_facts(folder: Union[str, Path], more: Mapping[str, Any]) -> None:
    """Add to what an artifact's facts and its card say.

    Parameters
    ----------
    folder
        Of an artifact.
    more
        Plain values; they take the place of facts of the same name.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`load_artifact`.
    OSError
        If the folder cannot be written to.
    """
    folder = find_artifact(folder)
    for name, content in _render({**read_facts(folder), **more}).items():
        if name != CARD or _may_replace_card(folder):
            with replace_file(folder / name) as file:
                file.write(content)


def _render(facts: Mapping[str, Any]) -> Dict[str, bytes]:
    """Return the files that say what is known of a model; the facts are the last to be written."""
    text = json.dumps(facts, indent=2, allow_nan=False) + "\n"
    return {CARD: make_card(facts).encode("utf-8", "replace"), FACTS: text.encode()}  # a folder's name may be no text


def _may_replace_card(folder: Path) -> bool:
    """Say whether there is no card yet, or one of ours; a file of somebody else's stays, and a warning says so."""
    card = folder / CARD
    if not card.exists() or (card.is_file() and MARK in card.read_text(encoding="utf-8", errors="replace")):
        return True
    logger.warning("%s was not written by RoboStig, and is left alone: the model gets no card", card)
    return False


def add_code(folder: Union[str, Path]) -> Path:
    """Put this package and the script that calls it beside a model, so that SageMaker's model server can serve it.

    A model that SageMaker's SDK packs anew gets the package in ``code/lib``, which is on no path; with code of its own
    it does not matter how it is deployed.

    Parameters
    ----------
    folder
        Of an artifact. A ``code`` folder that is there is replaced.

    Returns
    -------
    pathlib.Path
        The folder ``code``.
    """
    code = make_folder(folder) / CODE
    beside = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder))
    try:
        package = Path(robostig.__file__).resolve().parent
        shutil.copytree(
            package,
            beside / CODE / robostig.__name__,
            ignore=shutil.ignore_patterns("__pycache__", "*.pyc", WEIGHTS.name),  # it is to serve those beside it
        )
        for name in _SCRIPTS:
            (beside / CODE / name).write_text(_SCRIPT, encoding="utf-8")
        if code.is_dir():
            os.replace(code, beside / "replaced")
        os.replace(beside / CODE, code)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return code


def pack(folder: Union[str, Path], path: Union[str, Path]) -> Path:
    """Write a ``model.tar.gz`` for SageMaker: an artifact and the code that serves it.

    The same artifact and version give the same bytes.

    Parameters
    ----------
    folder
        Of an artifact. It stays as it is: what else lies in it is not packed, such as the training's history.
    path
        The file to write; one that is there is replaced.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`load_artifact`.
    OSError
        If the file cannot be written.
    """
    folder, path = find_artifact(folder), Path(path)
    names = list_files(folder)
    with tempfile.TemporaryDirectory() as beside:
        code = add_code(beside)
        contents = {name: folder / name for name in names}
        contents.update({str(file.relative_to(beside)): file for file in code.rglob("*") if file.is_file()})
        with replace_file(path) as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed, tarfile.open(
            fileobj=packed, mode="w"
        ) as archive:
            for name in sorted(contents):
                archive.add(contents[name], name, filter=_make_anonymous)
    return path


def _make_anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave out of an archive who packed it, and when."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    member.mode = 0o644
    return member


def find_artifact(folder: Union[str, Path]) -> Path:
    """Return the folder of an artifact; what is no folder may be the name of weights that come with the package.

    Parameters
    ----------
    folder
        A folder, or a name such as ``"nvidia"``. Where there is a folder of that name, it is meant.

    Returns
    -------
    pathlib.Path
        What is there: nothing is read, so it may hold no artifact.

    Raises
    ------
    FileNotFoundError
        If there is neither.
    """
    given, packaged = Path(folder), WEIGHTS / folder
    if given.exists():
        return given
    if packaged.parent == WEIGHTS and packaged.is_dir():
        _tell_packaged(given)
        return packaged
    names = sorted(path.name for path in WEIGHTS.glob("*/") if path.is_dir())
    raise FileNotFoundError(
        f"no trained model in {given}: there is no such folder, nor do weights of that name come with RoboStig "
        f"(there are: {', '.join(names) or 'none'}). Make one with `robostig train`"
    )


@functools.lru_cache(maxsize=None)  # once a process, however often it is looked for
def _tell_packaged(name: Path) -> None:
    logger.info("%s: the weights that come with RoboStig, since there is no folder of that name here", name)


def load_artifact(
    folder: Union[str, Path],
    context: Optional[mx.Context] = None,
    *,
    dtype: str = "float32",
    interleaved: bool = False,
) -> Artifact:
    """Load a trained network.

    Parameters
    ----------
    folder
        What :func:`save_artifact` wrote, or the name of packaged weights, as in :func:`find_artifact`.
    context
        Where to compute; the CPU if None.
    dtype
        What large dense layers compute with: ``"float32"``, or ``"int8"``, as in
        :func:`robostig.quantization.quantize_dense`.
    interleaved
        Whether the network is to take pixels as they lie in a picture, which is sooner done on a CPU; where this
        cannot be, :attr:`Artifact.layout` stays None. :class:`robostig.pilot.Pilot` knows how to give them.

    Raises
    ------
    FileNotFoundError
        If there is no artifact.
    ValueError
        If it is damaged, of a format that this version does not read, or cannot compute with that ``dtype`` there.
    """
    if dtype not in _DTYPES:
        raise ValueError(f"dtype is {dtype!r}; it is one of {', '.join(_DTYPES)}")
    context = context or mx.cpu()
    if dtype == "int8" and context.device_type != "cpu":
        raise ValueError(f"int8 is for CPUs, and this is {context}; use float32")
    folder = find_artifact(folder)
    facts = read_facts(folder)
    _check_digests(folder, facts)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Cannot decide type")  # of the input, which takes any
            spec = InputSpec.from_dict(facts["input"])
            symbol, parameters = _read_symbol(folder / SYMBOL), mx.nd.load(str(folder / PARAMETERS))
            net, layout = _build(symbol, parameters, spec, context, dtype, interleaved)
    except (mx.MXNetError, TypeError, json.JSONDecodeError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise ValueError(f"the artifact in {folder} cannot be read by MXNet {mx.__version__}: {first_line}") from error
    net.hybridize(static_alloc=True, static_shape=True)
    return Artifact(folder, net, spec, facts, layout)


def _read_symbol(path: Path) -> mx.sym.Symbol:
    """Read a graph, as if this very MXNet had saved it: of every other 1.9 it tells on stderr that it upgrades it."""
    graph = json.loads(path.read_text(encoding="utf-8"))
    version = graph.get("attrs", {}).get("mxnet_version", ["int", 0])
    major, minor, patch = (int(number) for number in mx.__version__.split(".")[:3])
    if version[1] // 100 == major * 100 + minor:
        version[1] = major * 10_000 + minor * 100 + patch
    return mx.sym.load_json(json.dumps(graph))


def load_parameters(net: mx.gluon.HybridBlock, folder: Union[str, Path]) -> None:
    """Put an artifact's parameters into a network of the same architecture, on the CPU.

    Parameters
    ----------
    net
        As the artifact's was built, with the same names; it need not be initialised.
    folder
        Of an artifact.

    Raises
    ------
    FileNotFoundError
        If there is no artifact.
    ValueError
        If it is damaged, or of another architecture.
    """
    folder = find_artifact(folder)
    _check_digests(folder, read_facts(folder))
    try:
        net.collect_params().load(str(folder / PARAMETERS), ctx=mx.cpu())
    except (AssertionError, OSError, mx.MXNetError) as error:
        reason = str(error).split(", ")[0]
        raise ValueError(f"the parameters in {folder} do not fit the network {net.name}: {reason}") from error


def _build(
    symbol: Any, saved: Mapping[str, Any], spec: InputSpec, context: mx.Context, dtype: str, interleaved: bool
) -> Tuple[mx.gluon.SymbolBlock, Optional[PixelLayout]]:
    """Return a network of an exported graph and its parameters, whose names have ``arg:`` or ``aux:`` before them.

    With it, how pixels must lie that it takes as they lie in a picture, if it does.
    """
    shape, layout = (1, 3, spec.height, spec.width), None
    symbol, parameters = fold_constants(symbol, {name.split(":", 1)[1]: value for name, value in saved.items()})
    symbol, parameters = fold_scaling(symbol, parameters)
    symbol, parameters = pair_columns(symbol, parameters, shape)
    if interleaved and context.device_type == "cpu":
        symbol, parameters, layout = interleave_channels(symbol, parameters, shape)
    if dtype == "int8":
        symbol = quantize_dense(symbol, parameters)
    if context.device_type == "cpu":
        symbol = fuse_activations(symbol)
    net = mx.gluon.SymbolBlock(symbol, mx.sym.var("data"))
    net.collect_params().load_dict(parameters, ctx=context, cast_dtype=True, dtype_source="saved")
    return net, layout


def read_facts(folder: Union[str, Path]) -> Dict[str, Any]:
    """Return an artifact's facts without loading its network; raises as :func:`load_artifact`."""
    folder = find_artifact(folder)
    path = folder / FACTS
    if not path.is_file():
        if folder.is_file():
            raise FileNotFoundError(
                f"{folder} is a file; an artifact is a folder (unpack a model.tar.gz with: tar -xzf)"
            )
        holds = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) if folder.is_dir() else ""
        found = f"it holds {holds}" if holds else "it is empty" if folder.is_dir() else "there is no such folder"
        raise FileNotFoundError(f"no trained model in {folder}: no {FACTS}, {found}. Make one with `robostig train`")
    try:
        facts = dict(json.loads(path.read_text()))
        version = facts["format"]
        if version == FORMAT:
            InputSpec.from_dict(facts["input"]), facts["model"]
            for name in (SYMBOL, PARAMETERS, SHAPES):
                facts["files"][name]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); copy the artifact again") from error
    if version != FORMAT:
        raise ValueError(
            f"{path} is of format {version}, RoboStig {robostig.__version__} reads format {FORMAT}; "
            "use the version that made it, or train again"
        )
    return facts


def list_files(folder: Union[str, Path]) -> Tuple[str, ...]:
    """Return the names of the files that an artifact is made of; raises as :func:`load_artifact`."""
    folder = find_artifact(folder)
    facts = read_facts(folder)
    _check_digests(folder, facts)
    return (*facts["files"], *([CARD] if (folder / CARD).is_file() else []), FACTS)


def _check_digests(folder: Path, facts: Mapping[str, Any]) -> None:
    for name, digest in facts["files"].items():
        if not (folder / name).is_file() or _digest(folder / name) != digest:
            raise ValueError(
                f"the artifact in {folder} is damaged: {name} is not the file it was saved with; copy it again"
            )


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
