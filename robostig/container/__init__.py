"""SageMaker's containers without Docker: the toolkits that Amazon's images run, in environments of their own.

``environment`` builds a Python environment with the images' versions, once. ``train.py`` and ``serve.py`` are what runs
in it, and in an image of your own (``container/``). ``job`` and ``server`` start them against a folder that stands for
``/opt/ml``, by ``child.py``, so that they end with the program that did.
"""

from robostig.container.environment import ContainerError, Environment, NotAvailableError, find_environment
from robostig.container.job import run_training, start_training, stop_training
from robostig.container.server import Server, check_port, open_model, unpack

__all__ = [
    "ContainerError",
    "Environment",
    "NotAvailableError",
    "Server",
    "check_port",
    "find_environment",
    "open_model",
    "run_training",
    "start_training",
    "stop_training",
    "unpack",
]
