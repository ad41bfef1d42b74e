"""What ``scaling.py`` starts in processes of their own: a training of a log of some length, and a host of a group."""

from __future__ import annotations

import os
import queue
import threading
import time
from pathlib import Path
from typing import Any, Dict, Optional, Tuple, Union

import numpy as np

from robostig.backend import count_parameters, mx
from robostig.config import TrainingConfig
from robostig.data import SteeringDataset, open_frames
from robostig.driving_log import read_driving_log
from robostig.factors import factor_largest_dense
from robostig.models import get_model, get_spec
from robostig.pilot import as_network_input
from robostig.pipeline import read_recording
from robostig.training import EpochRecord, fit
from robostig.workers import join_workers

__all__ = ["Host", "LongTraining"]

VALIDATION_ROWS = 32


class LongTraining:
    """One epoch on a log, from its JPEGs on, and the memory that this takes."""

    def train(self, folder: str, model: str, cache: str) -> Tuple[float, float]:
        """Return seconds, and the peak of the process's private memory in megabytes.

        Private is ``RssAnon`` in Linux's ``/proc/PID/status``: the pages of the mapped frame cache, which the system
        may drop at any time, are not in it.
        """
        os.environ["ROBOSTIG_CACHE"] = cache
        net, config = get_model(model), TrainingConfig(model=model, epochs=1, device="cpu")
        peaks, done = [0.0], threading.Event()
        watcher = threading.Thread(target=_watch_memory, args=(peaks, done))
        watcher.start()
        try:
            started = time.perf_counter()
            fit(net, *read_recording(folder, config).open(get_spec(model).input, config), config)
            return time.perf_counter() - started, max(peaks)
        finally:
            done.set()
            watcher.join()


def _watch_memory(peaks: list[float], done: threading.Event) -> None:
    while not done.wait(0.02):
        status = Path("/proc/self/status").read_text()
        peaks[0] = max(peaks[0], int(status.split("RssAnon:")[1].split()[0]) / 1000.0)


class Host:
    """A machine of one core that trains alone or with others, one epoch whenever it is told to.

    Its environment says whether there are others, as SageMaker's toolkit leaves it.
    """

    def __init__(self) -> None:
        self._go: queue.Queue[bool] = queue.Queue()
        self._done: queue.Queue[Union[EpochRecord, Exception]] = queue.Queue()
        self._training: Optional[threading.Thread] = None

    def prepare(self, core: int, folder: str, model: str, options: Dict[str, Any]) -> Tuple[int, int]:
        """Get ready to train a model without dropout; return how many numbers are added up for a step, and shared.

        Parameters
        ----------
        core
            The only one to compute on.
        folder, model
            What to learn from, and the network.
        options
            ``rows`` of the log, and what :class:`TrainingConfig` takes.
        """
        for thread in os.listdir("/proc/self/task"):  # MXNet's own, too; later ones inherit it
            os.sched_setaffinity(int(thread), {core})
        rows = options.pop("rows")
        log = read_driving_log(folder)
        frames = open_frames(log, get_spec(model).input)
        train = SteeringDataset(frames, log.steering, np.arange(rows) % len(log))
        validation = SteeringDataset(frames, log.steering, np.arange(len(log) - VALIDATION_ROWS, len(log)))
        net = get_model(model)
        net.apply(_remove_dropout)
        config = TrainingConfig(model=model, device="cpu", schedule="constant", patience=0, **options)
        count = self._count_exchanged(get_model(model), frames["center"].read([0]), config.batch_size)
        self._epochs = config.epochs
        self._training = threading.Thread(target=self._train, args=(net, train, validation, config), daemon=True)
        return count

    @staticmethod
    def _count_exchanged(net: Any, frame: np.ndarray, batch_size: int) -> Tuple[int, int]:
        net.initialize()
        data = as_network_input(frame, mx.cpu())
        net(data)
        factored, count = factor_largest_dense(net, batch_size, data.shape[1:]), count_parameters(net)
        return (count, 0) if factored is None else (count - factored.weight.data().size, factored.size)

    def train_epoch(self) -> Tuple[float, float]:
        """Return images a second, of the whole group, and the training's RMSE."""
        assert self._training is not None
        if self._training.ident is None:
            self._training.start()
        else:
            self._go.put(True)
        result = self._done.get()
        if isinstance(result, Exception):
            raise result
        return result.images_per_second, result.train_rmse

    def leave(self) -> None:
        """End the training, if it has not come to its end."""
        self._go.put(False)
        if self._training is not None and self._training.ident is not None:
            self._training.join()

    def _train(self, net: Any, train: SteeringDataset, validation: SteeringDataset, config: TrainingConfig) -> None:
        try:
            with join_workers(os.environ) as workers:
                fit(net, train, validation, config, workers=workers, on_epoch=self._pause)
        except Exception as error:  # raised again where an epoch is asked for
            self._done.put(error)

    def _pause(self, record: EpochRecord) -> None:
        self._done.put(record)
        if record.epoch < self._epochs and not self._go.get():
            raise InterruptedError("told to leave")


def _remove_dropout(block: Any) -> None:
    if isinstance(block, mx.gluon.nn.Dropout):
        block._rate = 0.0
