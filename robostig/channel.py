"""A channel of a SageMaker job: a folder (input modes File and FastFile), or a pipe through which packed logs come.

In Pipe mode a channel ``training`` has no folder. Beside its place there is a FIFO, ``training_0``, through which all
objects of the channel come, one after the other and without their names; for another epoch there would be
``training_1``. One reading is enough here: what comes is kept on the local disk, and read as any packed log.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import stat
from pathlib import Path

from robostig._files import claim_folder, make_folder
from robostig.frame_cache import default_cache_folder
from robostig.packed_log import unpack_stream

__all__ = ["find_channel"]

_BLOCK = 1 << 20  # bytes read from a pipe at once


def find_channel(folder: str) -> Path:
    """Return the folder with what a channel brings; what comes through a pipe is written to one first.

    Parameters
    ----------
    folder
        Where SageMaker says that the channel is, or any folder.

    Returns
    -------
    pathlib.Path
        The same folder, which is read only; or one beside the frame cache, which is removed when the process ends.

    Raises
    ------
    FileNotFoundError
        If the channel is a pipe, and there is none.
    ValueError
        If something else comes through the pipe than packed logs, or not all of one.
    OSError
        If what comes cannot be kept.
    """
    pipe = f"{folder}_0"
    if os.path.exists(pipe) and stat.S_ISFIFO(os.stat(pipe).st_mode):
        return _read_pipe(pipe)
    channels = json.loads(os.environ.get("SM_INPUT_DATA_CONFIG") or "{}")
    if channels.get(os.path.basename(folder), {}).get("TrainingInputMode") == "Pipe" and not os.path.isdir(folder):
        raise FileNotFoundError(f"the channel {os.path.basename(folder)} is a pipe, and there is no {pipe}")
    return Path(folder)


def _read_pipe(pipe: str) -> Path:
    cache = make_folder(default_cache_folder())
    folder, _ = claim_folder(cache, prefix=f"{os.path.basename(pipe)}-")  # for as long as the process lives
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        with open(pipe, "rb", buffering=_BLOCK) as stream:
            unpack_stream(stream, folder, name=pipe)
    except OSError as error:
        raise OSError(
            f"what comes through {pipe} cannot be kept in {folder} ({error.strerror or error}); give the job more disk "
            "(volume_size), or name another place with ROBOSTIG_CACHE"
        ) from error
    return folder
