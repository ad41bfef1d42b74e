#!/usr/bin/env python3
"""``serve`` as SageMaker starts it: the serving toolkit's own, made fit for any user and for a neighbour.

The toolkit expects a machine of its own, and to be started there once. Here it gets a new folder of its own instead:

* it writes its settings to ``/etc``, which takes root: they go to the folder;
* its model server keeps a process number and sockets in the machine's folder for temporary files, where those of
  another one, or of an earlier start, are in the way: they go to the folder, and so do logs and its copy of the model;
* it looks for its model server among all processes, and fails if there are two: it is shown only those that were
  started with its settings;
* its model server lets whoever reaches its port remove the model: it is managed by a socket in the folder.

Nothing else is changed. This file needs nothing but the toolkit, in whose Python it runs: in an image it is on the
PATH, on a laptop :class:`robostig.container.Server` starts it.
"""

from __future__ import annotations

import os
import tempfile
from types import SimpleNamespace
from typing import Iterator


def main() -> None:
    """Serve the model in ``SAGEMAKER_BASE_DIR`` until the process is told to end."""
    folder = tempfile.mkdtemp(prefix="serve-")
    os.chdir(folder)  # before the toolkit is imported, which notes where it is
    os.environ.update(TMPDIR=folder, TEMP=folder)  # Python's and Java's
    if os.environ.get("SAGEMAKER_MULTI_MODEL") != "true":  # then SageMaker manages it, by the port
        os.environ.setdefault("MMS_MANAGEMENT_ADDRESS", f"unix:{folder}/management")

    import psutil
    from sagemaker_inference import model_server
    from sagemaker_mxnet_serving_container import serving

    settings = os.path.join(folder, "sagemaker-mms.properties")
    model_server.MMS_CONFIG_FILE = settings

    def list_processes() -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            try:
                if settings in process.cmdline():
                    yield process
            except psutil.Error:
                pass  # it has ended, or is another user's

    model_server.psutil = SimpleNamespace(process_iter=list_processes)  # all that the toolkit asks of it
    serving.main()


if __name__ == "__main__":
    main()
