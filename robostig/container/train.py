#!/usr/bin/env python3
"""``train`` as SageMaker starts it: the training toolkit's own, told that the framework is MXNet.

This file needs nothing but the toolkit, in whose Python it runs: in an image it is on the PATH, on a laptop
:func:`robostig.container.run_training` starts it.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the script that the hyperparameters name, and end as it ends."""
    del sys.path[0]  # this file's folder: the toolkit hands its path on to the script, which finds its own there
    # What Amazon's own images say in their Dockerfile. It makes the toolkit start MXNet's parameter servers.
    os.environ.setdefault("SAGEMAKER_TRAINING_MODULE", "sagemaker_mxnet_container.training:main")
    from sagemaker_training.cli.train import main as train

    train()


if __name__ == "__main__":
    main()
