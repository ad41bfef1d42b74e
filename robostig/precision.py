"""Mixed precision: convolutions and dense layers in 16 bits, parameters and everything else in 32."""

from __future__ import annotations

import importlib
from typing import Any, List, Sequence

from robostig.backend import list_gpus, mx

amp: Any = importlib.import_module("mxnet.contrib.amp")  # after the backend, which prepares for MXNet

__all__ = ["scale_losses", "set_precision", "watch_overflow"]

_HALF_CAPABILITY = (5, 3)  # the first GPUs that compute in float16

_started = "float32"


def set_precision(dtype: str, contexts: Sequence[mx.Context]) -> None:
    """Have the networks that are built from now on compute in a type, through MXNet's AMP.

    Parameters
    ----------
    dtype
        ``"float32"``; ``"float16"``, for GPUs; or ``"bfloat16"``, for CPUs with AVX-512.
    contexts
        Where they will compute.

    Raises
    ------
    ValueError
        If a device cannot compute in the type, or this process has already started another: AMP changes MXNet's
        operators for as long as the process runs.
    """
    global _started
    if dtype == _started:
        return
    if _started != "float32":
        raise ValueError(
            f"dtype={dtype!r} cannot be had in a process that has trained with {_started!r}, which stays on until it "
            "ends; start another"
        )
    reason = _find_obstacle(dtype, contexts)
    if reason:
        raise ValueError(f"dtype={dtype!r} cannot be had: {reason}")
    amp.init(target_dtype=dtype)
    _started = dtype


def watch_overflow(trainer: mx.gluon.Trainer) -> None:
    """Have a trainer leave out steps whose gradients overflow, which float16 needs, with :func:`scale_losses`."""
    if _started == "float16":
        amp.init_trainer(trainer)


def scale_losses(losses: Sequence[mx.nd.NDArray], trainer: mx.gluon.Trainer) -> List[mx.nd.NDArray]:
    """Return the losses to go backward from: enlarged, if need be, so that small gradients are not lost in float16."""
    if getattr(trainer, "_amp_loss_scaler", None) is None:
        return list(losses)
    with mx.autograd.record(), amp.scale_loss(list(losses), trainer) as scaled:
        return list(scaled)


def _find_obstacle(dtype: str, contexts: Sequence[mx.Context]) -> str:
    """Say why the devices cannot compute in a type, and what to choose; an empty text if they can."""
    kinds = {context.device_type for context in contexts}
    if dtype == "float16":
        if kinds != {"gpu"}:
            return 'it needs a GPU, and this computes on the CPU. Choose "float32", or "bfloat16" on a CPU with AVX-512'
        gpus = list_gpus()
        chosen = [gpus[context.device_id] for context in contexts]
        old = [str(gpu) for gpu in chosen if gpu.capability < _HALF_CAPABILITY]
        return f'{", ".join(old)} computes in float32 only. Choose "float32"' if old else ""
    if kinds != {"cpu"}:
        return 'MXNet 1.9 computes in it on CPUs only. Choose "float16" for a GPU, or "float32"'
    try:
        _try_bfloat16()
    except mx.MXNetError as error:
        reason = str(error).strip().splitlines()[-1]
        return f'MXNet cannot use it on this CPU ({reason}). Choose "float32"'
    return ""


def _try_bfloat16() -> None:
    numbers = mx.nd.amp_cast(mx.nd.ones((1, 16, 8, 8)), dtype=amp.amp.bfloat16)
    weight = mx.nd.amp_cast(mx.nd.ones((16, 16, 3, 3)), dtype=amp.amp.bfloat16)
    answer: Any = mx.nd.Convolution(numbers, weight, no_bias=True, num_filter=16, kernel=(3, 3))
    mx.nd.amp_cast(answer, dtype="float32").wait_to_read()
