"""SageMaker's MXNet script, for any registered model: train from the channels, leave an artifact, serve it.

Train with the estimator (``pip install "robostig[sagemaker]"``)::

    MXNet(entry_point="robostig/entry_point.py", dependencies=["robostig"], hyperparameters={"model": "comma"},
          framework_version="1.9.0", py_version="py38", ...).fit({"training": "s3://bucket/recording"})

or at home, with the same flags::

    python robostig/entry_point.py --model comma --training recording --model-dir out/comma

Channels hold a recording (of Udacity's simulator, donkeycar or comma.ai), several in sub-folders, what ``robostig
pack`` makes of these (which may come through a pipe), or the arrays of the pipeline's first module (``train_X.npy`` and
so on); without a ``validation`` channel, stretches of the training drive are held out. The model server finds
``model_fn`` and ``transform_fn`` here, and needs nothing of what training needs.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, List, NoReturn, Optional, Sequence


def _find_package(here: Path) -> None:
    """Make ``robostig`` importable, wherever SageMaker has put this file and the package."""
    is_inside = (here / "__init__.py").is_file()
    if is_inside and here.name == "robostig":
        if __name__ == "__main__":
            # Run as a file of the package: Python has put the package's own folder on the path.
            sys.path[0] = str(here.parent)
    elif is_inside:
        # source_dir="robostig": the package is there, in a folder of another name.
        spec = importlib.util.spec_from_file_location("robostig", here / "__init__.py")
        assert spec is not None and spec.loader is not None
        sys.modules["robostig"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["robostig"])
    elif not (here / "robostig").is_dir() and (here / "lib" / "robostig").is_dir():
        sys.path.insert(0, str(here / "lib"))  # where SageMaker's SDK packs dependencies for serving, on no path


_find_package(Path(__file__).resolve().parent)

from robostig._files import describe_error  # noqa: E402
from robostig.serving import model_fn, transform_fn  # noqa: E402

if TYPE_CHECKING:
    from robostig.workers import WorkerGroup

__all__ = ["main", "model_fn", "transform_fn"]

logger = logging.getLogger("robostig.entry_point")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Treat a flag that cannot be read as any other mistake, which SageMaker gets to know of."""
        raise ValueError(message)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser: folders, with what SageMaker's variables say as defaults, and the hyperparameters."""
    from robostig.config import TrainingConfig

    parser = _Parser(
        prog="entry_point.py",
        description="Train a steering model from a recording and write its artifact.",
        epilog="example: python robostig/entry_point.py --model comma --training recording --model-dir out/comma",
        add_help="SM_MODEL_DIR" not in os.environ,  # in a job, a hyperparameter `h` must not end it as if all were well
        allow_abbrev=False,  # an unknown hyperparameter must not pass for the beginning of a known one
    )
    folders = parser.add_argument_group("folders")
    for flag, variable, default, text in (
        (
            "--training",
            "SM_CHANNEL_TRAINING",
            None,
            "recording to learn from: a driving log, or train_X.npy and the like",
        ),
        ("--validation", "SM_CHANNEL_VALIDATION", None, "recording to hold out; else stretches of the first are"),
        ("--model-dir", "SM_MODEL_DIR", "model", "where the artifact goes"),
        ("--output-data-dir", "SM_OUTPUT_DATA_DIR", None, "where history and loss curve go; else beside the artifact"),
        ("--checkpoint-dir", "SM_CHECKPOINT_DIR", _default_checkpoints(), "where an interrupted run is resumed from"),
    ):
        value = os.environ.get(variable, default)
        folders.add_argument(flag, default=value, metavar="DIR", help=f"{text} ({variable}; default {value})")
    TrainingConfig.add_arguments(parser)
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Train as flags and SageMaker's variables say.

    Parameters
    ----------
    argv
        Flags; those of the process if None.

    Returns
    -------
    int
        0 if an artifact was written, 1 if not: one line on stderr says why, and so does SageMaker's ``failure`` file,
        which becomes the job's failure reason.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        from robostig.workers import join_workers

        with join_workers(os.environ) as workers:
            arguments, unknown = build_parser().parse_known_args(argv)
            for name in _names_of(unknown):
                logger.warning('hyperparameter "%s" is not one that RoboStig has, and is left aside', name)
            _train(arguments, workers)
    except (ValueError, OSError, ImportError) as error:
        _report_failure(describe_error(error))
        return 1
    except Exception as error:  # a job has no other place to say that it failed, and why
        logger.exception("this is a fault of RoboStig, or of what it runs on")
        _report_failure(f"{type(error).__name__}: {error}")
        return 1
    return 0


def _report_failure(reason: str) -> None:
    """Say why on stderr and, in a SageMaker job, where its control plane looks for it."""
    line = " ".join(reason.split())
    print(f"error: {line}", file=sys.stderr)
    folder = os.environ.get("SM_OUTPUT_DIR")
    if folder:
        try:
            Path(folder, "failure").write_text(line + "\n", encoding="utf-8")
        except OSError as error:  # a full disk, say; the training toolkit then writes what it knows
            logger.warning("the reason could not be written to %s: %s", folder, error)


def _train(arguments: argparse.Namespace, workers: WorkerGroup) -> None:
    # Not at the top: the inference image imports this file too, and has neither OpenCV nor a recording.
    from robostig.channel import find_channel
    from robostig.config import TrainingConfig
    from robostig.models import get_spec
    from robostig.pipeline import read_recording, train_model

    config = TrainingConfig.from_arguments(arguments)
    get_spec(config.model, pretrained=config.pretrained)  # before the data is read, which may take long
    if not arguments.training:
        raise ValueError("there is nothing to learn from: give the estimator a channel `training`, or --training DIR")
    training, validation = (folder and find_channel(folder) for folder in (arguments.training, arguments.validation))
    recording = read_recording(training, config, validation_folder=validation)
    logger.info(recording.describe())
    trained = train_model(
        config,
        recording,
        arguments.model_dir,
        workdir=arguments.output_data_dir,
        checkpoint_dir=arguments.checkpoint_dir,
        with_code=True,
        workers=workers,
    )
    if not workers.is_first:
        return  # the first host's log has what follows, too
    # The tuner reads these by regular expression: fixed point, one name each.
    logger.info(
        "final model=%s validation_rmse=%.5f validation_mae=%.5f baseline_rmse=%.5f",
        trained.name,
        *(trained.open_loop.scores[name] for name in ("rmse", "mae", "rmse_mean_baseline")),
    )


def _default_checkpoints() -> Optional[str]:
    """Return SageMaker's checkpoint folder if this is a SageMaker job that has one."""
    folder = Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"), "checkpoints")
    return str(folder) if "SM_MODEL_DIR" in os.environ and folder.is_dir() else None


def _names_of(unknown: Sequence[str]) -> List[str]:
    """Return the names among flags that were not understood; SageMaker's own, such as _tuning_objective_metric, too."""
    names = [re.match(r"--?([A-Za-z_][^=]*)", word) for word in unknown]  # -1e-3 is a value
    return [name.group(1) for name in names if name]


if __name__ == "__main__":
    sys.exit(main())
