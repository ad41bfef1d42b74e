"""SageMaker on this machine: the session that SageMaker's SDK is given when there is no account.

The SDK, the training toolkit, the model server and what they run are SageMaker's own (:mod:`robostig.container`). S3,
roles, models and endpoints' configurations are kept by moto, in memory; training and tuning jobs in a folder, so that
what one notebook has trained the next one finds. Nothing leaves the machine.

``session`` is what the SDK sees; ``jobs``, ``search`` and ``endpoints`` answer the calls behind which SageMaker would
start machines.

Examples
--------
>>> session = LocalSession("account") if LOCAL else sagemaker.Session()       # doctest: +SKIP
>>> role = sagemaker.get_execution_role(session)                              # doctest: +SKIP
"""

from robostig.local.session import LocalSession

__all__ = ["LocalSession"]
