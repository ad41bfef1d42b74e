"""SageMaker's MXNet script, for any registered model: train from the channels, leave an artifact, serve it.

Train with the estimator (``pip install "robostig[sagemaker]"``)::

    MXNet(entry_point="robostig/entry_point.py", dependencies=["robostig"], hyperparameters={"model": "comma"},
          framework_version="1.9.0", py_version="py38", ...).fit({"training": "s3://bucket/recording"})

or at home, with the same flags::

    python robostig/entry_point.py --model comma --training recording --model-dir out/comma

Channels hold a driving log and its pictures, or the arrays of the pipeline's first module (``train_X.npy`` and so on);
without a ``validation`` channel, stretches of the training drive are held out. The model server finds ``model_fn`` and
``transform_fn`` here, and needs nothing of what training needs.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from pathlib import Path
from typing import List, Optional, Sequence

HERE = Path(__file__).resolve().parent
if __name__ == "__main__" and (HERE / "__init__.py").is_file():
    # Run as a file of the package: Python has put the package's own folder on the path, where its parent belongs.
    sys.path[0] = str(HERE.parent)

from robostig.serving import model_fn, transform_fn  # noqa: E402

__all__ = ["main", "model_fn", "transform_fn"]

logger = logging.getLogger("robostig.entry_point")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser: folders, with what SageMaker's variables say as defaults, and the hyperparameters."""
    from robostig.config import TrainingConfig

    parser = argparse.ArgumentParser(
        prog="entry_point.py",
        description="Train a steering model from a recording and write its artifact.",
        epilog="example: python robostig/entry_point.py --model comma --training recording --model-dir out/comma",
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
        0 if an artifact was written, 1 if the user can mend what went wrong, which one line on stderr names.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    arguments, unknown = build_parser().parse_known_args(argv)
    for name in _names_of(unknown):
        logger.warning('hyperparameter "%s" is not one that RoboStig has, and is left aside', name)
    try:
        _train(arguments)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _train(arguments: argparse.Namespace) -> None:
    # Not at the top: the inference image imports this file too, and has neither OpenCV nor a recording.
    from robostig.config import TrainingConfig
    from robostig.pipeline import read_recording, train_model

    config = TrainingConfig.from_arguments(arguments)
    if not arguments.training:
        raise ValueError("there is nothing to learn from: give the estimator a channel `training`, or --training DIR")
    recording = read_recording(arguments.training, config, validation_folder=arguments.validation)
    logger.info(recording.describe())
    trained = train_model(
        config,
        recording,
        arguments.model_dir,
        workdir=arguments.output_data_dir,
        checkpoint_dir=arguments.checkpoint_dir,
    )
    # The tuner reads these by regular expression: fixed point, one name each.
    logger.info(
        "final model=%s validation_rmse=%.5f validation_mae=%.5f baseline_rmse=%.5f",
        trained.name,
        *(trained.open_loop.scores[name] for name in ("rmse", "mae", "rmse_mean_baseline")),
    )


def _default_checkpoints() -> Optional[str]:
    """Return SageMaker's checkpoint folder if this is a SageMaker job that has one."""
    folder = Path("/opt/ml/checkpoints")
    return str(folder) if "SM_MODEL_DIR" in os.environ and folder.is_dir() else None


def _names_of(unknown: Sequence[str]) -> List[str]:
    """Return the names among flags that were not understood; SageMaker's own, such as _tuning_objective_metric, too."""
    names = [re.match(r"--?([A-Za-z_][^=]*)", word) for word in unknown]  # -1e-3 is a value
    return [name.group(1) for name in names if name]


if __name__ == "__main__":
    sys.exit(main())
