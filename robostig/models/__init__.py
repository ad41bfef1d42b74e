"""The zoo: steering networks by name.

>>> from robostig.models import get_model, get_spec, list_models
>>> list_models()
['comma', 'mobilenet_v2', 'mobilenet_v3_small', 'nvidia', 'resnet18']
>>> net = get_model("nvidia")
>>> get_spec("nvidia").input.shape
(66, 200, 3)

Every module in this folder is imported here, so that a new model is one new file. Other packages add theirs with
:func:`register`.
"""

import importlib
import pkgutil

from robostig.models.registry import ModelSpec, get_model, get_spec, list_models, register

__all__ = ["ModelSpec", "get_model", "get_spec", "list_models", "register"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
