"""RoboStig: a steering-model zoo and pipeline on Gluon/MXNet.

Train several networks on the same recorded drive, and let the better one steer::

    from robostig.models import get_model, list_models

    list_models()  # every registered network, such as 'comma' and 'nvidia'
    net = get_model("nvidia")

Importing this package prepares the process for MXNet (see :mod:`robostig._compat`) without importing it.
"""

from robostig._compat import prepare_for_mxnet

__version__ = "0.1.0"

prepare_for_mxnet()
