"""Serving on SageMaker: endpoints and production variants, created, shifted and removed."""

from __future__ import annotations

import contextlib
import logging
import math
import numbers
import re
import tarfile
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Tuple, Union

from robostig.artifact import pack
from robostig.deployment.account import (
    FRAMEWORK_VERSION,
    PY_VERSION,
    SCRIPT,
    DeploymentError,
    check_account,
    check_count,
    import_sagemaker,
    in_one_line,
    look_up,
    open_session,
)
from robostig.deployment.trained import Model, find_model_data, split_place

if TYPE_CHECKING:
    from sagemaker.base_predictor import Predictor

__all__ = ["delete", "deploy", "deploy_variants", "shift_traffic"]

logger = logging.getLogger(__name__)

POLL_S, PATIENCE_S = 15, 3600  # between two looks at an endpoint in the making, and for all of them
_NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9])*")
_LONGEST_NAME = 54  # SageMaker takes 63 characters, and a model's name is its endpoint's and nine more
_PLACE = re.compile(r"s3://[^/]+/.+")
# A model's tags: which endpoint it was made for here, and what was uploaded for it. delete() removes nothing without.
_ENDPOINT_TAG, _UPLOAD_TAG = "robostig:endpoint", "robostig:upload"
# Its own code runs. Told by variables and not by an entry_point, the SDK does not pack it anew.
_ENV = {"SAGEMAKER_PROGRAM": SCRIPT, "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code"}
_SET_HERE = {
    *("name", "model_data", "role", "image_uri", "sagemaker_session", "entry_point", "source_dir", "dependencies"),
    *("git_config", *_ENV),
}


def deploy(
    models: Mapping[str, Model],
    *,
    prefix: str = "robostig",
    role: Optional[str] = None,
    instance_type: str = "ml.c5.large",
    instance_count: int = 1,
    image_uri: Optional[str] = None,
    wait: bool = True,
    sagemaker_session: Optional[Any] = None,
    model_options: Optional[Mapping[str, Any]] = None,
) -> Dict[str, Predictor]:
    """Serve each model from an endpoint of its own, named ``prefix`` and the model's name: ``robostig-comma``.

    A model's code is that in its ``model.tar.gz``; it is served as it was trained, and not packed anew.

    Parameters
    ----------
    models
        A name for each, and the model: an estimator that has trained, a ``model.tar.gz`` on S3 that training wrote, or
        the folder of an artifact, which is packed and uploaded to the session's default bucket.
    prefix
        Of the endpoints' names.
    role, instance_type, instance_count, image_uri, wait, sagemaker_session, model_options
        As for :func:`deploy_variants`; the instances are each endpoint's.

    Returns
    -------
    dict
        Name to the SDK's predictor. ``robostig drive --endpoint robostig-comma`` lets one drive.

    Raises
    ------
    ImportError, FileNotFoundError, ValueError, DeploymentError
        As :func:`deploy_variants`. If not all endpoints could be created, the message names those that there are.
    """
    _check_models(models)
    predictors = _deploy(
        models,
        {f"{prefix}-{name}": {name: 1.0} for name in models},
        role=role,
        instance_type=instance_type,
        instance_count=instance_count,
        image_uri=image_uri,
        wait=wait,
        sagemaker_session=sagemaker_session,
        model_options=model_options,
    )
    return dict(zip(models, predictors))


def deploy_variants(
    models: Mapping[str, Model],
    *,
    endpoint_name: str = "robostig",
    weights: Optional[Mapping[str, float]] = None,
    role: Optional[str] = None,
    instance_type: str = "ml.c5.large",
    instance_count: int = 1,
    image_uri: Optional[str] = None,
    wait: bool = True,
    sagemaker_session: Optional[Any] = None,
    model_options: Optional[Mapping[str, Any]] = None,
) -> Predictor:
    """Serve several models from one endpoint, as production variants that share the traffic.

    What only SageMaker knows (an instance type that there is not, a limit, a permission) shows when models have been
    created and uploaded already. Nothing is billed by the hour then; the message says how to remove them.

    Parameters
    ----------
    models
        As for :func:`deploy`; their names are the variants'.
    endpoint_name
        Of the endpoint.
    weights
        Name to a share of the traffic, in any unit; all alike if None.
    role
        Name or ARN of the IAM role that the models run with; if None, the estimators' own, or that of a notebook in
        SageMaker.
    instance_type, instance_count
        Of each variant.
    image_uri
        A container of your own, in place of Amazon's.
    wait
        Whether to return only when the endpoint answers, or has failed to.
    sagemaker_session
        The SDK's; a new one if None.
    model_options
        Handed to the SDK's ``MXNetModel``, such as ``env``, ``vpc_config`` and ``model_server_workers``; not what code
        it runs, which is the model's own.

    Returns
    -------
    sagemaker.predictor.Predictor
        Its ``predict(..., target_variant=name)`` asks one of them.

    Raises
    ------
    ImportError
        If SageMaker's SDK 2 is not installed.
    FileNotFoundError, ValueError
        If a folder holds no artifact, an estimator has not trained, a ``model.tar.gz`` has no code, a name is taken or
        no name, weights, a number or options are none, or the region is not set or has no image; nothing is created.
    DeploymentError
        If credentials or permissions are missing, or SageMaker fails.
    """
    _check_models(models)
    shares = dict.fromkeys(models, 1.0) if weights is None else weights
    _check_weights(shares)
    if set(shares) != set(models):
        raise ValueError(f"weights are of {', '.join(shares)}; give one for each of {', '.join(models)}")
    return _deploy(
        models,
        {endpoint_name: shares},
        role=role,
        instance_type=instance_type,
        instance_count=instance_count,
        image_uri=image_uri,
        wait=wait,
        sagemaker_session=sagemaker_session,
        model_options=model_options,
    )[0]


def shift_traffic(
    endpoint_name: str, weights: Mapping[str, float], *, sagemaker_session: Optional[Any] = None
) -> Dict[str, float]:
    """Change how an endpoint's variants share the traffic, and wait until they do.

    Parameters
    ----------
    endpoint_name
        From :func:`deploy_variants`.
    weights
        Variant to its new weight, 0 for no traffic; a variant that is not named keeps its own.

    Returns
    -------
    dict
        Variant to the weight that it has now.

    Raises
    ------
    ValueError
        If there is no such variant, a weight is negative or no number, or nobody would get any traffic.
    DeploymentError
        If there is no such endpoint, or SageMaker fails.
    """
    _check_name(endpoint_name)
    with in_one_line(f"the traffic of {endpoint_name} could not be shifted"):
        client = (sagemaker_session or open_session()).sagemaker_client
        now = _read_weights(client, endpoint_name)
        _check_weights(weights, now)
        unknown = [name for name in weights if name not in now]
        if unknown:
            raise ValueError(f"{endpoint_name} has no variant {unknown[0]!r}; it has {', '.join(now)}")
        client.update_endpoint_weights_and_capacities(
            EndpointName=endpoint_name,
            DesiredWeightsAndCapacities=[
                {"VariantName": name, "DesiredWeight": float(weight)} for name, weight in weights.items()
            ],
        )
        _wait_for(client, endpoint_name)
        now = _read_weights(client, endpoint_name)
    logger.info("%s: %s", endpoint_name, ", ".join(f"{name} {weight:g}" for name, weight in now.items()))
    return now


def delete(endpoint_name: str, *, sagemaker_session: Optional[Any] = None) -> List[str]:
    """Remove an endpoint, its configuration, and the models and uploads that were made for it here.

    What is gone already is no error: call it again after one. What was made here is known by its tags, and a
    configuration by the endpoint's name; models, data and configurations that something else made are kept.

    Parameters
    ----------
    endpoint_name
        From :func:`deploy` or :func:`deploy_variants`.

    Returns
    -------
    list of str
        What was removed, in words; empty if there was nothing of that name, which is logged as a warning.

    Raises
    ------
    ValueError
        If that is no name, or the region is not set.
    DeploymentError
        If something could not be removed; the message says what was.
    """
    _check_name(endpoint_name)
    removed: List[str] = []
    with in_one_line(f"{endpoint_name} could not be removed"):
        session = sagemaker_session or open_session()
        client = session.sagemaker_client
        described = look_up(client.describe_endpoint, EndpointName=endpoint_name) or {}
        config_name = described.get("EndpointConfigName", endpoint_name)
        config = look_up(client.describe_endpoint_config, EndpointConfigName=config_name) or {}
        models = _find_models(client, endpoint_name)
        # What is billed goes first.
        todo: List[Tuple[str, Any, Dict[str, str]]] = [
            (f"the endpoint {endpoint_name}", client.delete_endpoint, {"EndpointName": endpoint_name}),
            (
                f"the endpoint configuration {endpoint_name}",
                client.delete_endpoint_config,
                {"EndpointConfigName": endpoint_name},
            ),
        ]
        for name, upload in models.items():
            container = (look_up(client.describe_model, ModelName=name) or {}).get("PrimaryContainer", {})
            if upload and container.get("ModelDataUrl") == upload:  # before the model, which knows of it
                s3 = session.boto_session.client("s3")
                todo.append((upload, s3.delete_object, split_place(upload)))
            todo.append((f"the model {name}", client.delete_model, {"ModelName": name}))
    for what, remove, arguments in todo:
        with in_one_line(f"{what} could not be removed; removed so far: {', '.join(removed) or 'nothing'}"):
            if look_up(remove, **arguments) is not None:
                removed.append(what)
    used = [each.get("ModelName") for each in config.get("ProductionVariants", [])]
    kept = [f"the model {name}" for name in used if name and name not in models]
    if config_name != endpoint_name:
        kept.insert(0, f"the endpoint configuration {config_name}")
    if removed:
        logger.info("removed %s%s", ", ".join(removed), f"; kept {', '.join(kept)}, not made here" if kept else "")
    else:
        logger.warning(
            "there is nothing named %s in %s; `aws sagemaker list-endpoints` shows what there is",
            endpoint_name,
            session.boto_region_name,
        )
    return removed


def _check_models(models: Any) -> None:
    """Raise ValueError unless these are names, and for each something that can be a model."""
    if not isinstance(models, Mapping) or not models:
        raise ValueError(
            f"name the models to deploy: {{'comma': 's3://bucket/job/output/model.tar.gz', ...}}, not {models!r}"
        )
    for name, model in models.items():
        on_s3 = isinstance(model, str) and model.startswith("s3:")
        if not (_PLACE.fullmatch(model) if on_s3 else _is_folder(model) or hasattr(model, "latest_training_job")):
            raise ValueError(
                f"the model {name} is {model!r}; give a trained estimator, s3://bucket/key of a model.tar.gz, "
                "or the folder of an artifact"
            )


def _check_name(name: Any, longest: int = 63) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > longest:
        raise ValueError(f"{name!r} is no name: letters, digits and hyphens, at most {longest}")


def _check_weights(weights: Any, now: Optional[Mapping[str, float]] = None) -> None:
    """Raise ValueError unless these are numbers by name, with which somebody gets traffic."""
    numeric = isinstance(weights, Mapping) and all(isinstance(each, numbers.Real) for each in weights.values())
    if (
        not (numeric and weights)
        or not all(math.isfinite(weight) and weight >= 0 for weight in weights.values())
        or not any({**(now or {}), **weights}.values())
    ):
        raise ValueError(
            f"the weights are {weights!r}; give a number for each name: each is 0 or more, and one at least is more"
        )


@dataclass(frozen=True)
class _Source:
    """What a SageMaker model is made of: the role's ARN, an image or None for Amazon's, and the data's place."""

    role: str
    image_uri: Optional[str]
    data: Union[str, Path]  # on S3, or packed here and yet to be uploaded


def _deploy(
    models: Mapping[str, Model],
    layout: Mapping[str, Mapping[str, float]],
    *,
    role: Optional[str],
    instance_type: str,
    instance_count: int,
    image_uri: Optional[str],
    wait: bool,
    sagemaker_session: Optional[Any],
    model_options: Optional[Mapping[str, Any]],
) -> List[Predictor]:
    """Create endpoints; the layout says which models, and with which weights, each has."""
    for name in (*layout, *models):
        _check_name(name, _LONGEST_NAME)
    check_count("instance_count", instance_count)
    sagemaker = import_sagemaker()
    with tempfile.TemporaryDirectory() as beside:
        packed = {name: _pack(model, beside) for name, model in models.items() if _is_folder(model)}
        sessions = [getattr(model, "sagemaker_session", None) for model in models.values()]
        session = sagemaker_session or next(filter(None, sessions), None) or open_session()
        sources = {}
        with in_one_line("nothing was created"):
            for name, model in models.items():
                image = image_uri or getattr(model, "image_uri", None)
                arn = check_account(session, role or getattr(model, "role", None), "inference", instance_type, image)
                sources[name] = _Source(
                    arn, image, packed.get(name) or _check_code(session, find_model_data(model, session))
                )
                _make_model(session, sources[name], "s3://bucket/model.tar.gz", name, model_options)
            for endpoint in layout:
                _check_is_free(session, endpoint)
        try:
            created = {
                endpoint: [
                    sagemaker.production_variant(
                        _create_model(session, endpoint, sources[name], instance_type, model_options),
                        instance_type,
                        instance_count,
                        variant_name=name,
                        initial_weight=weight,
                    )
                    for name, weight in weights.items()
                ]
                for endpoint, weights in layout.items()
            }
            for endpoint, variants in created.items():
                with in_one_line(f"the endpoint {endpoint} could not be created"):
                    session.endpoint_from_production_variants(endpoint, variants, wait=False)
                logger.warning(
                    "created the endpoint %s: %d x %s, billed for as long as it exists; remove it with %s",
                    *(
                        endpoint,
                        instance_count * len(variants),
                        instance_type,
                        _say_delete(endpoint, sagemaker_session),
                    ),
                )
            for endpoint in created if wait else ():
                with in_one_line(f"the endpoint {endpoint} is not in service"):
                    _wait_for(session.sagemaker_client, endpoint)
        except (OSError, ValueError) as error:
            raise DeploymentError(
                f"{' '.join(str(error).split()).rstrip('.')}. What was created before that, if anything, is still "
                f"there, and endpoints are billed; remove it with "
                f"{', '.join(_say_delete(endpoint, sagemaker_session) for endpoint in layout)}"
            ) from error
    return [sagemaker.mxnet.MXNetPredictor(endpoint, session) for endpoint in layout]


def _say_delete(endpoint: str, session: Optional[Any] = None) -> str:
    """Return the call that removes an endpoint, in the session that was given for it, if one was."""
    return f"robostig.deployment.delete({endpoint!r}{', sagemaker_session=...' if session else ''})"


def _is_folder(model: Model) -> bool:
    return isinstance(model, (str, Path)) and not str(model).startswith("s3://")


def _pack(model: Any, beside: str) -> Path:
    return pack(model, Path(tempfile.mkdtemp(dir=beside)) / "model.tar.gz")


def _create_model(
    session: Any, endpoint: str, source: _Source, instance_type: str, options: Optional[Mapping[str, Any]]
) -> str:
    """Create what SageMaker calls a model, for one variant of an endpoint, and return its name."""
    name = f"{endpoint}-{uuid.uuid4().hex[:8]}"
    trouble = f"a model for the endpoint {endpoint} could not be created"
    with in_one_line(trouble), contextlib.ExitStack() as undo:
        data, tags = source.data, {_ENDPOINT_TAG: endpoint}
        if isinstance(data, Path):  # to a place of its own: another one may be in service
            data = tags[_UPLOAD_TAG] = str(session.upload_data(str(data), key_prefix=name))
            undo.callback(_remove_upload, session, data)
            logger.info("uploaded %s", data)
        _make_model(session, source, data, name, options).create(
            instance_type=instance_type, tags=[{"Key": key, "Value": value} for key, value in tags.items()]
        )
        undo.pop_all()
    return name


def _make_model(session: Any, source: _Source, data: str, name: str, options: Optional[Mapping[str, Any]]) -> Any:
    """Return the SDK's model; ValueError for options that it does not take, or that are set here."""
    try:
        given = dict(options or {})
        env = dict(given.pop("env", None) or {})
        taken = sorted(_SET_HERE.intersection((*given, *env)))
        if taken:
            raise ValueError(f"{', '.join(taken)} cannot be set there")
        settings = {"framework_version": FRAMEWORK_VERSION, "py_version": PY_VERSION, **given, "env": {**env, **_ENV}}
        return import_sagemaker().mxnet.MXNetModel(
            data, name=name, role=source.role, image_uri=source.image_uri, sagemaker_session=session, **settings
        )
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"model_options is {options!r}, which cannot be used ({' '.join(str(error).split())}); it takes options of "
            "the SDK's MXNetModel, such as env and vpc_config"
        ) from error


def _remove_upload(session: Any, uri: str) -> None:
    """Remove what was uploaded in vain; a failure is logged, for the error to tell of is another."""
    try:
        with in_one_line(f"{uri} was uploaded in vain, and could not be removed"):
            session.boto_session.client("s3").delete_object(**split_place(uri))
    except DeploymentError as error:
        logger.warning("%s", error)


def _find_models(client: Any, endpoint: str) -> Dict[str, Optional[str]]:
    """Return the names of the models that were made here for an endpoint, and what was uploaded for each, if anything.

    A name alone tells nothing: eight hexadecimal digits may be somebody's date.
    """
    found = {}
    for page in client.get_paginator("list_models").paginate(NameContains=endpoint):
        for model in page["Models"]:
            if not re.fullmatch(re.escape(endpoint) + "-[0-9a-f]{8}", model["ModelName"]):
                continue
            pages = client.get_paginator("list_tags").paginate(ResourceArn=model["ModelArn"])
            tags = {tag["Key"]: tag["Value"] for page in pages for tag in page["Tags"]}
            if tags.get(_ENDPOINT_TAG) == endpoint:
                found[model["ModelName"]] = tags.get(_UPLOAD_TAG)
    return found


def _check_is_free(session: Any, endpoint: str) -> None:
    """Raise ValueError if there is an endpoint of that name, or what is left of one."""
    client = session.sagemaker_client
    if look_up(client.describe_endpoint, EndpointName=endpoint) or look_up(
        client.describe_endpoint_config, EndpointConfigName=endpoint
    ):
        raise ValueError(
            f"there is an endpoint {endpoint} already, or what is left of one; choose another name, or remove it with "
            f"{_say_delete(endpoint)}"
        )


def _check_code(session: Any, uri: str) -> str:
    """Return the place of a model.tar.gz, if there is code in it: without, an endpoint fails after a quarter hour."""
    wanted = f"code/{SCRIPT}"
    client = session.boto_session.client("s3", region_name=session.boto_region_name)
    body = look_up(client.get_object, **split_place(uri))
    if body is None:
        raise ValueError(f"there is no {uri}; give the model.tar.gz that a training job wrote")
    try:
        with contextlib.closing(body["Body"]) as stream, tarfile.open(fileobj=stream, mode="r|gz") as archive:
            if any(member.name.lstrip("./") == wanted for member in archive):
                return uri
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{uri} is no tar.gz ({error}); give the model.tar.gz that a training job wrote") from error
    raise ValueError(
        f"{uri} has no {wanted}, so that no model server could run it: training by this version puts it there. Unpack "
        "it, and deploy the folder"
    )


def _wait_for(client: Any, endpoint: str) -> None:
    """Wait until an endpoint is in service; boto3's WaiterError if it fails."""
    limits = {"Delay": POLL_S, "MaxAttempts": max(1, int(PATIENCE_S / POLL_S))}
    client.get_waiter("endpoint_in_service").wait(EndpointName=endpoint, WaiterConfig=limits)


def _read_weights(client: Any, endpoint: str) -> Dict[str, float]:
    variants = client.describe_endpoint(EndpointName=endpoint)["ProductionVariants"]
    return {variant["VariantName"]: float(variant.get("CurrentWeight", 0.0)) for variant in variants}
