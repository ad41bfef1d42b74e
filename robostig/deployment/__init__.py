"""SageMaker from a notebook: train and tune there, serve several models, see which one should drive, remove them.

A thin layer over SageMaker's Python SDK, version 2: what comes back are its own estimators, tuners and predictors.
Before anything is uploaded or created, credentials, region, images, names and models are looked at, so that most
mistakes cost nothing; an instance type that there is not, or a limit, is for SageMaker to notice. From the moment an
endpoint is created its instances are billed, whether somebody asks it or not, until :func:`delete` is called; what was
created, and that call, is logged as a warning.

Examples
--------
>>> job = estimator("comma", role=role, hyperparameters={"epochs": 20})       # doctest: +SKIP
>>> job.fit({"training": upload("recording")})                                # doctest: +SKIP
>>> deploy({"comma": job, "nvidia": "out/nvidia"}, role=role)                 # doctest: +SKIP
>>> delete("robostig-comma"), delete("robostig-nvidia")                       # doctest: +SKIP
"""

from robostig.deployment.account import DeploymentError, open_session
from robostig.deployment.comparison import EndpointComparison, EndpointScore, compare_endpoints
from robostig.deployment.endpoints import delete, deploy, deploy_variants, shift_traffic
from robostig.deployment.jobs import METRICS, OBJECTIVE, estimator, tuner
from robostig.deployment.recordings import upload
from robostig.deployment.trained import attach, fetch

__all__ = [
    "METRICS",
    "OBJECTIVE",
    "DeploymentError",
    "EndpointComparison",
    "EndpointScore",
    "attach",
    "compare_endpoints",
    "delete",
    "deploy",
    "deploy_variants",
    "estimator",
    "fetch",
    "open_session",
    "shift_traffic",
    "tuner",
    "upload",
]
