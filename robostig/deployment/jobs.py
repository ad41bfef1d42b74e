"""Training and tuning on SageMaker: the SDK's own estimators and tuners, set up for RoboStig."""

from __future__ import annotations

import logging
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Mapping, Optional, Sequence, Tuple, Union

import robostig
from robostig.comparison import check_models
from robostig.config import TrainingConfig
from robostig.deployment.account import (
    FRAMEWORK_VERSION,
    PY_VERSION,
    SCRIPT,
    check_account,
    check_count,
    import_sagemaker,
    open_session,
)
from robostig.models import get_spec

if TYPE_CHECKING:
    from sagemaker.mxnet.estimator import MXNet
    from sagemaker.tuner import HyperparameterTuner

__all__ = ["METRICS", "OBJECTIVE", "estimator", "tuner"]

logger = logging.getLogger(__name__)

PACKAGE = Path(robostig.__file__).resolve().parent

OBJECTIVE = "validation:rmse"
_EPOCH, _FINAL = r"epoch=[0-9]+ .*", r"final model=.* "
METRICS = [  # what training prints, in fixed point
    {"Name": OBJECTIVE, "Regex": _FINAL + r"validation_rmse=([0-9.]+)"},
    {"Name": "validation:mae", "Regex": _FINAL + r"validation_mae=([0-9.]+)"},
    {"Name": "baseline:rmse", "Regex": _FINAL + r"baseline_rmse=([0-9.]+)"},
    {"Name": "epoch:train_rmse", "Regex": _EPOCH + r"train_rmse=([0-9.]+)"},
    {"Name": "epoch:validation_rmse", "Regex": _EPOCH + r"validation_rmse=([0-9.]+)"},
    {"Name": "epoch:learning_rate", "Regex": _EPOCH + r"learning_rate=([0-9.]+)"},
    {"Name": "epoch:images_per_second", "Regex": _EPOCH + r"images_per_second=([0-9.]+)"},
]


def estimator(
    model: str,
    *,
    role: Optional[str] = None,
    hyperparameters: Optional[Mapping[str, Any]] = None,
    instance_type: str = "ml.g4dn.xlarge",
    instance_count: int = 1,
    **options: Any,
) -> MXNet:
    """Return SageMaker's estimator for a model; its ``fit({"training": "s3://..."})`` then trains.

    It is the SDK's ``MXNet(entry_point="robostig/entry_point.py", dependencies=["robostig"], framework_version="1.9.0",
    py_version="py38", hyperparameters={"model": model}, ...)`` with the installed package, the metrics that training
    prints, and a parameter server if there are several instances. Nothing is created before ``fit``.

    Parameters
    ----------
    model
        Its registered name.
    role
        Name or ARN of the IAM role that the job runs with; in SageMaker's notebooks, their own if None.
    hyperparameters
        Of :class:`~robostig.config.TrainingConfig`; defaults for the rest.
    instance_type, instance_count
        What ``fit`` rents, until the job ends.
    **options
        Handed to ``MXNet``: ``use_spot_instances``, ``max_wait`` and ``checkpoint_s3_uri`` for managed spot training,
        ``image_uri`` for a container of your own, ``sagemaker_session``, and all else that it takes.

    Raises
    ------
    ImportError
        If SageMaker's SDK 2 is not installed.
    ValueError
        For an unknown model, a hyperparameter that is none or out of range, a number of instances below 1, a region
        that is not set or has no image.
    DeploymentError
        Without valid credentials, or if there is no such role.
    """
    sagemaker = import_sagemaker()
    values = {"model": model, **_check_hyperparameters(model, hyperparameters or {})}
    check_count("instance_count", instance_count)
    if instance_count > 1:
        options.setdefault("distribution", {"parameter_server": {"enabled": True}})
    if not instance_type.startswith("local"):
        session = options["sagemaker_session"] = options.get("sagemaker_session") or open_session()
        role = check_account(session, role, "training", instance_type, options.get("image_uri"))
    settings = {
        "entry_point": str(PACKAGE / SCRIPT),
        "dependencies": [str(PACKAGE)],
        "framework_version": FRAMEWORK_VERSION,
        "py_version": PY_VERSION,
        "metric_definitions": [dict(metric) for metric in METRICS],
        "base_job_name": f"robostig-{model.replace('_', '-')}",
        **options,
    }
    made = sagemaker.mxnet.MXNet(
        role=role, hyperparameters=values, instance_type=instance_type, instance_count=instance_count, **settings
    )
    logger.info("fit() rents %d x %s until the job ends; nothing is left to remove", instance_count, instance_type)
    return made


def tuner(
    models: Union[str, Sequence[str]],
    *,
    role: Optional[str] = None,
    max_jobs: int,
    max_parallel_jobs: int = 1,
    hyperparameters: Optional[Mapping[str, Any]] = None,
    settings: Optional[Mapping[str, Any]] = None,
    **options: Any,
) -> HyperparameterTuner:
    """Return SageMaker's tuner; its ``fit`` looks for the hyperparameters with the smallest validation RMSE.

    What it tries is :meth:`robostig.config.TrainingConfig.tuning_ranges`, and the model as well if several are named.

    Parameters
    ----------
    models
        Registered names.
    max_jobs, max_parallel_jobs
        How many training jobs in all, and at the same time.
    hyperparameters
        Fixed ones; they are not tried.
    settings
        Handed to ``HyperparameterTuner``, such as ``{"strategy": "Random"}``. Early stopping compares jobs epoch by
        epoch: ``{"early_stopping_type": "Auto", "objective_metric_name": "epoch:validation_rmse"}``.
    role, **options
        As for :func:`estimator`.

    Raises
    ------
    ImportError, ValueError, DeploymentError
        As :func:`estimator`.
    """
    names = [models] if isinstance(models, str) else list(models)
    check_models(names)
    check_count("max_jobs", max_jobs)
    check_count("max_parallel_jobs", max_parallel_jobs)
    made = estimator(names[0], role=role, hyperparameters=hyperparameters, **options)
    from sagemaker.parameter import CategoricalParameter
    from sagemaker.tuner import HyperparameterTuner

    fixed = made.hyperparameters()
    ranges = {name: _make_range(values) for name, values in TrainingConfig.tuning_ranges().items() if name not in fixed}
    if len(names) > 1:
        ranges["model"] = CategoricalParameter(names)
    logger.info("fit() runs up to %d such jobs, %d at a time", max_jobs, max_parallel_jobs)
    return HyperparameterTuner(
        made,
        **{
            "objective_metric_name": OBJECTIVE,
            "objective_type": "Minimize",
            "hyperparameter_ranges": ranges,
            "metric_definitions": made.metric_definitions,
            "base_tuning_job_name": "robostig",
            "max_jobs": max_jobs,
            "max_parallel_jobs": max_parallel_jobs,
            **(settings or {}),
        },
    )


def _check_hyperparameters(model: str, given: Mapping[str, Any]) -> Dict[str, Any]:
    """Return hyperparameters by the names that they have in the configuration; raises as it does."""
    get_spec(model)
    if not isinstance(given, Mapping):
        raise ValueError(f"hyperparameters is {given!r}; give a value for each name: {{'epochs': 20, ...}}")
    config = TrainingConfig.from_dict({"model": model, **given})
    get_spec(model, pretrained=config.pretrained)
    values = config.to_dict()
    if values["model"] != model:
        raise ValueError(f"the hyperparameters name the model {values['model']!r}, the call {model!r}; name it once")
    names = {alias: each.name for each in fields(TrainingConfig) for alias in each.metadata["aliases"]}
    underscored = [name.replace("-", "_") for name in given]
    return {name: values[name] for name in (names.get(each, each) for each in underscored)}


def _make_range(options: Tuple[Any, ...]) -> Any:
    """Return the SDK's word for what a tuner should try: a range if these are its ends, else choices."""
    from sagemaker.parameter import CategoricalParameter, ContinuousParameter

    if not isinstance(options[0], float):
        return CategoricalParameter(list(options))
    low, high = options[:2]
    return ContinuousParameter(low, high, "Logarithmic" if "log" in options else "Auto")
