"""Training written plainly: what ``fit`` does, without anything that is there for speed alone (see ``plain.py``)."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, Dict, Iterator, List, Sequence

import numpy as np
from tqdm import tqdm

from robostig import convolution, training
from robostig.augmentation import Memory
from robostig.backend import mx
from robostig.config import TrainingConfig
from robostig.data import Batch, SteeringDataset, TrainingLoader
from robostig.driving_log import read_driving_log, read_picture
from robostig.models import get_model, get_spec
from robostig.preprocessing import InputSpec, preprocess
from robostig.split import split_by_time
from robostig.workers import WorkerGroup

__all__ = ["Epochs"]


class Pictures:
    """A camera's pictures, decoded and preprocessed whenever they are read, as a source of a dataset."""

    def __init__(self, paths: Sequence[str], spec: InputSpec) -> None:
        self.paths, self.spec = paths, spec

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, numbers: Sequence[int]) -> np.ndarray:
        """Return the frames of these numbers."""
        return np.stack([preprocess(read_picture(self.paths[number]), self.spec) for number in numbers])


class PlainLoader(TrainingLoader):
    """The same batches, one after the other, when they are asked for, each in new memory."""

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the batches of an epoch."""
        rows = self._draw_rows(number)
        for position in range(len(self)):
            assemble, steering, draw = self._begin_batch(number, position, rows, Memory())
            yield self._finish_batch(assemble(), steering, draw, Memory())


class PlainRun(training._Run):
    """The same steps: layer by layer, each waited for, with averages as anyone would write them."""

    def _step(self, batch: Batch) -> List[mx.nd.NDArray]:
        frames = mx.nd.array(batch.frames, dtype=np.uint8).transpose((0, 3, 1, 2)).astype(np.float32)
        with mx.autograd.record():
            loss = self.loss(self.net(frames), mx.nd.array(batch.steering)).sum()
        loss.backward()
        self.trainer.step(self.loader.batch_size)
        loss.wait_to_read()
        self.steps += 1
        kept = min(self.config.averaging, self.steps / (self.steps + 9.0))
        for name, parameter in self.parameters.items():
            self.average[name] = kept * self.average[name] + (1.0 - kept) * parameter.data()
        return [loss]


def convolve(self: Any, F: Any, x: Any, weight: Any, bias: Any) -> Any:
    """Scale every number of the input, then convolve."""
    return mx.gluon.nn.Conv2D.hybrid_forward(self, F, x * self._scale + self._offset, weight, bias)


class Epochs:
    """Whole epochs from recorded JPEGs."""

    def run(self, data: str, config: TrainingConfig) -> Dict[str, Any]:
        """Read the log, train and validate; returns what ``gluon_side.Epochs.run`` does, but for ``decoding_s``."""
        started = time.perf_counter()
        convolution.CHANNEL_BLOCK = 1  # of which every number of channels is a multiple: plain convolutions
        for kind in (convolution.ScaledConv2D, convolution.AlignedConv2D):
            kind.hybrid_forward = convolve
        training._Adam = mx.optimizer.Adam
        log, spec = read_driving_log(data), get_spec(config.model).input
        split, contexts = split_by_time(log), [mx.cpu()]
        frames = {camera: Pictures(paths, spec) for camera, paths in log.pictures.items()}
        train, validation = (SteeringDataset(frames, log.steering, rows) for rows in (split.train, split.validation))
        net = get_model(config.model)
        config = replace(config, hybridize=False)
        training._prepare(net, train, contexts, config)
        loader = training.make_loader(train, config)
        loader.__class__ = PlainLoader
        run = PlainRun(net, None, loader, validation, config, contexts, WorkerGroup())
        history = [run.train_epoch(epoch, tqdm(disable=True)) for epoch in range(config.epochs)]
        return {
            "seconds": time.perf_counter() - started,
            "train_rmse": [record.train_rmse for record in history],
            "validation_rmse": [record.validation_rmse for record in history],
        }
