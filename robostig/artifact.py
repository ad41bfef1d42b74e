"""What a trained model is on disk; the only module that knows the files' names.

=====================  ==========================================================================================
``model-symbol.json``  the network as MXNet exports it, normalisation included
``model-0000.params``  its parameters
``model-shapes.json``  the input's name and shape, as MXNet's model server wants it
``robostig.json``      the facts: model, input, configuration, data, versions, scores, and the other files' digests
=====================  ==========================================================================================

The facts are written last and name the digests of the other three, so that a folder that was cut short, or whose files
belong to different models, is never taken for an artifact. Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
import warnings
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Dict, Mapping, Optional, Union

import numpy as np

import robostig
from robostig._files import make_folder
from robostig.backend import find_context, mx
from robostig.preprocessing import InputSpec

__all__ = ["Artifact", "load_artifact", "read_facts", "save_artifact"]

FACTS = "robostig.json"
SYMBOL, PARAMETERS, SHAPES = "model-symbol.json", "model-0000.params", "model-shapes.json"
FORMAT = 1


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
    """

    folder: Path
    net: mx.gluon.SymbolBlock
    spec: InputSpec
    facts: Mapping[str, Any]

    @property
    def model(self) -> str:
        """The registered name of the network."""
        return str(self.facts["model"])


def save_artifact(
    folder: Union[str, Path], net: mx.gluon.HybridBlock, spec: InputSpec, facts: Mapping[str, Any]
) -> Path:
    """Write a trained network; an artifact that is there already is replaced.

    Parameters
    ----------
    folder
        Made if it is not there. Other files in it are left alone.
    net
        Initialised.
    spec
        How frames were preprocessed for it.
    facts
        Plain values; ``"model"`` is needed. Versions, digests and the time are added.

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
            "parameters": int(sum(np.prod(each.shape) for each in net.collect_params().values())),
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "versions": {
                "robostig": robostig.__version__,
                "mxnet": mx.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            },
            "files": files,
        }
        (beside / FACTS).write_text(json.dumps(record, indent=2, allow_nan=False) + "\n")
        (folder / FACTS).unlink(missing_ok=True)
        for name in (SYMBOL, PARAMETERS, SHAPES, FACTS):
            os.replace(beside / name, folder / name)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder


def load_artifact(folder: Union[str, Path], context: Optional[mx.Context] = None) -> Artifact:
    """Load a trained network.

    Parameters
    ----------
    folder
        What :func:`save_artifact` wrote.
    context
        Where to compute; the CPU if None.

    Raises
    ------
    FileNotFoundError
        If there is no artifact.
    ValueError
        If it is damaged, or of a format that this version does not read.
    """
    folder = Path(folder)
    facts = read_facts(folder)
    for name, digest in facts["files"].items():
        if not (folder / name).is_file() or _digest(folder / name) != digest:
            raise ValueError(
                f"the artifact in {folder} is damaged: {name} is not the file it was saved with; copy it again"
            )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Cannot decide type")  # of the input, which takes any
            net = mx.gluon.SymbolBlock.imports(
                str(folder / SYMBOL), ["data"], str(folder / PARAMETERS), ctx=context or mx.cpu()
            )
        spec = InputSpec.from_dict(facts["input"])
    except (mx.MXNetError, TypeError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise ValueError(f"the artifact in {folder} cannot be read by MXNet {mx.__version__}: {first_line}") from error
    net.hybridize(static_alloc=True, static_shape=True)
    return Artifact(folder, net, spec, facts)


def read_facts(folder: Union[str, Path]) -> Dict[str, Any]:
    """Return an artifact's facts without loading its network; raises as :func:`load_artifact`."""
    folder = Path(folder)
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
        facts = json.loads(path.read_text())
        version = facts["format"]
        facts["files"], facts["input"], facts["model"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); copy the artifact again") from error
    if version != FORMAT:
        raise ValueError(
            f"{path} is of format {version}, RoboStig {robostig.__version__} reads format {FORMAT}; "
            "use the version that made it, or train again"
        )
    return dict(facts)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
