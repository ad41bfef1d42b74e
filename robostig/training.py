"""Training: a network, two datasets and a configuration in; the best parameters and the history out.

There is no ``argv`` and no environment variable in here: notebooks, the command line and SageMaker's entry point all
call :func:`fit`.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import math
import time
import zipfile
import zlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

import cv2
import numpy as np
from tqdm import tqdm

from robostig._files import make_folder, replace_file
from robostig.augmentation import Augmentation
from robostig.backend import choose_contexts, make_beside, mx, view_memory
from robostig.config import TrainingConfig
from robostig.data import Batch, SteeringDataset, TrainingLoader
from robostig.factors import factor_largest_dense
from robostig.folding import peel_scaling
from robostig.freezing import Backbone
from robostig.pilot import InputMemory, predict
from robostig.precision import scale_losses, set_precision, watch_overflow
from robostig.tracing import make_block, trace
from robostig.workers import WorkerGroup

__all__ = [
    "CHECKPOINT",
    "FREE_SETTINGS",
    "EpochRecord",
    "TrainingConfig",
    "TrainingResult",
    "find_backbone",
    "fit",
    "make_loader",
    "read_history",
]

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.npz"
HISTORY = "history.csv"
LOSS_CURVE = "loss_curve.png"
LOWEST_RATE = 0.01  # the cosine ends at this share of the learning rate

# May differ between a run and its continuation: none of them changes what is computed.
FREE_SETTINGS = ("device", "cache_gb", "on_error")


@dataclass(frozen=True)
class EpochRecord:
    """One line of the history.

    Parameters
    ----------
    epoch
        From 1.
    train_rmse
        Over the augmented, balanced batches with dropout: harder than the validation rows.
    validation_rmse
        Over the held-out rows as recorded; 1.0 is 25 degrees.
    learning_rate
        At the end of the epoch.
    seconds
        Wall-clock time of the epoch, validation included.
    images_per_second
        Training frames a second on all hosts, validation left out.
    """

    epoch: int
    train_rmse: float
    validation_rmse: float
    learning_rate: float
    seconds: float
    images_per_second: float


@dataclass(frozen=True)
class TrainingResult:
    """How a run went. The network passed to :func:`fit` holds the best epoch's parameters.

    Parameters
    ----------
    history
        One record an epoch.
    best_epoch
        The epoch with the lowest validation RMSE, from 1.
    stopped_early
        Whether patience ended the run.
    resumed_from
        The number of epochs that an earlier, interrupted run had done; 0 if none.
    devices
        Where it computed; with the host's name, if there were several.
    labels
        (n,) float32 steering of the first epoch's batches, after balancing and augmentation: what was learned from.
    """

    history: Tuple[EpochRecord, ...]
    best_epoch: int
    stopped_early: bool
    resumed_from: int
    devices: Tuple[str, ...]
    labels: np.ndarray

    @property
    def validation_rmse(self) -> float:
        """The best epoch's."""
        return self.history[self.best_epoch - 1].validation_rmse

    @property
    def seconds(self) -> float:
        """Wall-clock time of all epochs."""
        return sum(record.seconds for record in self.history)

    @property
    def images_per_second(self) -> float:
        """The median epoch's."""
        return float(np.median([record.images_per_second for record in self.history]))


def fit(
    net: mx.gluon.HybridBlock,
    train: SteeringDataset,
    validation: SteeringDataset,
    config: TrainingConfig,
    *,
    workdir: Union[str, Path, None] = None,
    checkpoint_dir: Union[str, Path, None] = None,
    keep_checkpoint: bool = False,
    on_epoch: Optional[Callable[[EpochRecord], None]] = None,
    workers: Optional[WorkerGroup] = None,
) -> TrainingResult:
    """Train a network and leave the best epoch's parameters in it.

    Parameters
    ----------
    net
        Of the zoo, or any HybridBlock (N, 3, H, W) float32, 0..255 -> (N, 1). Initialised here where it is not.
    train, validation
        Preprocessed alike. Only the training rows are balanced and augmented.
    config
        The settings. Its ``model`` does not matter here, but must be the same for a checkpoint to be resumed.
    workdir
        Where ``history.csv`` and ``loss_curve.png`` go; nothing is written if None.
    checkpoint_dir
        Where the checkpoint goes; ``workdir`` if None. A checkpoint of an interrupted run with the same settings is
        resumed, with the same result as if it had not been interrupted.
    keep_checkpoint
        Whether a finished run leaves its checkpoint, for a caller with more to do that might be interrupted; the run
        that resumes it has nothing left to train.
    on_epoch
        Called after each epoch, when its checkpoint is in place. What it raises ends the run and leaves the checkpoint.
    workers
        Those who train this network together, each calling this with the same arguments; this process alone if None.
        Each takes its share of every batch, all end with the same parameters and history (to within rounding, where
        their processors differ), and the first writes files. The result is one worker's to within rounding, but for
        dropout, whose masks each worker draws for its share, and for batch normalisation, which uses the statistics of
        each one's share.

    Raises
    ------
    ValueError
        If the two sets are preprocessed differently, the frames' size does not fit the network, a device cannot compute
        in ``dtype``, the checkpoint belongs to other settings or data, the workers differ in either, the loss stops
        being a number, or ``freeze_epochs`` would hold random weights or finds no backbone.
    ConnectionError
        If another worker has failed.
    """
    workers = workers or WorkerGroup()
    if train.spec != validation.spec:
        raise ValueError(
            f"the training frames are preprocessed as {train.spec}, the validation frames as {validation.spec}"
        )
    contexts = choose_contexts(config.device)
    devices = len(contexts) * workers.count
    if config.batch_size < devices:
        raise ValueError(f"a batch of {config.batch_size} cannot be shared by {devices} devices; raise batch_size")
    set_precision(config.dtype, contexts)
    backbone = find_backbone(net, config)
    _prepare(net, train, contexts, config)
    run = _Run(net, backbone, make_loader(train, config, workers), validation, config, contexts, workers)
    folder = Path(workdir) if workdir is not None else None
    checkpoints = Path(checkpoint_dir) if checkpoint_dir is not None else folder
    if workers.is_first:
        for each in (folder, checkpoints):
            if each is not None:
                make_folder(each)
    if checkpoints is not None:
        for partial in checkpoints.glob(f"{CHECKPOINT}.*.partial"):
            partial.unlink(missing_ok=True)  # of a run that was killed while it wrote; SageMaker would keep it on S3
        run.resume(checkpoints / CHECKPOINT)
    resumed_from = len(run.history)
    bar = tqdm(
        total=config.epochs * len(run.loader),
        initial=resumed_from * len(run.loader),
        unit="batch",
        disable=None,
        leave=None,  # not below another bar
    )
    try:
        run.hold_backbone(resumed_from)
        run.meet_workers()
        for epoch in range(resumed_from, config.epochs):
            if run.is_exhausted():
                break
            bar.set_description(f"epoch {epoch + 1}/{config.epochs}")
            record = run.train_epoch(epoch, bar)
            bar.set_postfix(validation_rmse=f"{record.validation_rmse:.4f}")
            if checkpoints is not None and workers.is_first:
                run.save(checkpoints / CHECKPOINT)
            if folder is not None and workers.is_first:
                _write_history(folder / HISTORY, run.history)
            if on_epoch is not None:
                on_epoch(record)
    finally:
        bar.close()
        run.hold_backbone(config.freeze_epochs)  # it is thawed, however this ends
    result = TrainingResult(
        history=tuple(run.history),
        best_epoch=run.best_epoch,
        stopped_early=len(run.history) < config.epochs,
        resumed_from=resumed_from,
        devices=tuple(
            str(context) if workers.count == 1 else f"{host} {context}"
            for host in workers.hosts
            for context in contexts
        ),
        labels=run.loader.labels(0),
    )
    run.restore_best()
    if folder is not None and workers.is_first:
        _write_history(folder / HISTORY, run.history)  # again: a run killed after its last checkpoint adds no line
        _draw_history(folder / LOSS_CURVE, result)
    if checkpoints is not None and not keep_checkpoint:
        (checkpoints / CHECKPOINT).unlink(missing_ok=True)
    run.log("best epoch %d of %d: validation_rmse=%.5f", result.best_epoch, len(result.history), result.validation_rmse)
    return result


def find_backbone(net: mx.gluon.HybridBlock, config: TrainingConfig) -> Optional[Backbone]:
    """Return what is to be frozen for ``config.freeze_epochs``; None if that is 0.

    Raises
    ------
    ValueError
        If the network has no such part, or that part's weights would be random.
    """
    if not config.freeze_epochs:
        return None
    backbone = Backbone(net)
    fresh = sum(map(_is_fresh, backbone.parameters.values()))
    if fresh:
        raise ValueError(
            f"freeze_epochs={config.freeze_epochs} would hold {fresh} arrays of random weights: begin with trained "
            "ones (pretrained=true), or choose freeze_epochs=0"
        )
    return backbone


def make_loader(
    train: SteeringDataset, config: TrainingConfig, workers: Optional[WorkerGroup] = None
) -> TrainingLoader:
    """Return the loader that :func:`fit` trains with, for this one's share of every batch if there are workers."""
    return TrainingLoader(
        train,
        config.batch_size,
        augmentation=Augmentation(
            config.flip,
            config.shift,
            config.shadow,
            config.brightness,
            config.tint,
            config.scenery,
            config.bonnet,
            correction=config.camera_correction,
        ),
        balance=config.balance,
        side_cameras=config.side_cameras,
        seed=config.seed,
        part=workers.share(config.batch_size) if workers is not None else None,
    )


class _Run:
    """The state of a run that a checkpoint holds, and the steps that change it."""

    def __init__(
        self,
        net: mx.gluon.HybridBlock,
        backbone: Optional[Backbone],
        loader: TrainingLoader,
        validation: SteeringDataset,
        config: TrainingConfig,
        contexts: Sequence[mx.Context],
        workers: WorkerGroup,
    ) -> None:
        self.net, self.loader, self.validation, self.config, self.contexts = net, loader, validation, config, contexts
        self.backbone, self.workers = backbone, workers
        self.log = logger.info if workers.is_first else logger.debug  # the logs of all hosts are read as one
        self.parameters = net.collect_params()
        # Gradients are added up and no more: every worker takes the same step, and has all that a checkpoint holds.
        kvstore = workers.make_kvstore(lambda: sum(each.grad_req != "null" for each in self.parameters.values()))
        self.trainer = mx.gluon.Trainer(
            self.parameters, _make_optimizer(config), kvstore=kvstore, update_on_kvstore=False
        )
        watch_overflow(self.trainer)
        # Graphs are taken apart as they are now: not where freezing changes them, nor what computes with 16 bits.
        is_plain = config.hybridize and config.dtype == "float32" and backbone is None
        self.learner, scale, offset = net, 1.0, 0.0
        if is_plain and contexts[0].device_type == "cpu":
            # Frames are scaled while they become floats; MXNet would take a pass over all of them for it.
            self.learner, scale, offset = _peel_scaling(net)
            _compile(self.learner, config)
        self.memories = [InputMemory(context, scale=scale, offset=offset) for context in contexts]
        self.factored = None
        if is_plain and workers.count > 1:
            shape = (3, validation.spec.height, validation.spec.width)
            self.factored = factor_largest_dense(self.learner, config.batch_size, shape)
        if self.factored is not None:
            for part in (self.factored.below, self.factored.above):
                _compile(part, config)
            kvstore.factor(self.trainer._param2idx[self.factored.weight.name], self.factored)
            self.log(
                "of %s, not the gradient travels but its factors: %d numbers for %d",
                self.factored.weight.name,
                self.factored.size,
                self.factored.weight.data(contexts[0]).size,
            )
        self.loss = mx.gluon.loss.L2Loss()
        self.history: List[EpochRecord] = []
        self.best: Dict[str, np.ndarray] = {}
        self.steps = 0
        # The parameters' running average (Polyak and Juditsky 1992): it forgets the noise of single steps.
        self.average = {name: parameter.data(contexts[0]).copy() for name, parameter in self.parameters.items()}

    @property
    def best_epoch(self) -> int:
        return 1 + int(np.argmin([record.validation_rmse for record in self.history]))

    def is_exhausted(self) -> bool:
        """Say whether patience is over."""
        return 0 < self.config.patience <= len(self.history) - (self.best_epoch if self.history else 0)

    def hold_backbone(self, epoch: int) -> bool:
        """Freeze the backbone, or thaw it, as the configuration has it for an epoch; say whether that changed it."""
        is_held = epoch < self.config.freeze_epochs
        if self.backbone is None or self.backbone.is_frozen == is_held:
            return False
        self.backbone.freeze(is_held)
        _compile(self.learner, self.config)
        return True

    def _list_moving(self) -> List[Tuple[str, mx.gluon.Parameter]]:
        """List what is not held: parameters that learn, and statistics."""
        held = self.backbone.parameters if self.backbone is not None and self.backbone.is_frozen else {}
        return [(name, each) for name, each in self.parameters.items() if name not in held]

    def train_epoch(self, epoch: int, bar: Any) -> EpochRecord:
        """Train one epoch, validate, and remember the parameters if they are the best so far."""
        started = time.perf_counter()
        if self.hold_backbone(epoch):
            self._reach_workers()
        # Dropout's draws depend on the epoch (and on the worker) alone, so that a resumed run repeats them.
        mx.random.seed(_derive_seed(self.config.seed, epoch, self.workers.rank))
        losses: List[List[mx.nd.NDArray]] = []
        total, seen = 0.0, 0
        for position, batch in enumerate(self.loader.epoch(epoch)):
            rate = self._learning_rate(epoch + position / len(self.loader))
            self.trainer.set_learning_rate(rate)
            losses.append(self._step(batch))
            seen += len(batch.steering)
            if len(losses) > 1:  # one step behind: a GPU stays busy, and never runs away from us
                total += self.workers.wait(_add_up, losses.pop(0))
            bar.update()
        total += sum(self.workers.wait(_add_up, each) for each in losses)
        self.workers.wait(mx.nd.waitall)  # for the last step, too
        total, seen = map(sum, zip(*self.workers.gather([total, seen])))
        train_seconds = time.perf_counter() - started
        train_rmse = math.sqrt(2.0 * total / seen)  # gluon's L2 loss is half the square
        self._share_statistics()
        validation_rmse = self._validate()
        if not (math.isfinite(train_rmse) and math.isfinite(validation_rmse)):
            raise ValueError(
                f"the loss is no longer a number in epoch {epoch + 1}: training diverged. "
                f"Lower the learning rate ({self.config.learning_rate:g})"
            )
        record = EpochRecord(
            epoch + 1, train_rmse, validation_rmse, rate, time.perf_counter() - started, seen / train_seconds
        )
        if not self.history or validation_rmse < min(each.validation_rmse for each in self.history):
            self.best = {name: value.asnumpy() for name, value in self.average.items()}
        self.history.append(record)
        # Fixed point throughout: SageMaker's metric expressions would read 1e-05 as 1.
        self.log(
            "epoch=%d train_rmse=%.5f validation_rmse=%.5f learning_rate=%.8f seconds=%.1f images_per_second=%.0f",
            *asdict(record).values(),
        )
        return record

    def _step(self, batch: Batch) -> List[mx.nd.NDArray]:
        """Forward, backward, update; returns each device's summed loss, not waited for."""
        cuts = np.linspace(0, len(batch.steering), len(self.contexts) + 1).astype(int)
        losses = []
        for context, memory, start, stop in zip(self.contexts, self.memories, cuts[:-1], cuts[1:]):
            frames = memory.write(batch.frames[start:stop])
            steering = mx.nd.array(batch.steering[start:stop], ctx=context)
            with mx.autograd.record():
                losses.append(self.loss((self.factored or self.learner)(frames), steering).sum())
        mx.autograd.backward(scale_losses(losses, self.trainer))
        if self.factored is not None:
            first, _ = self.workers.share(self.config.batch_size)
            for context, start in zip(self.contexts, cuts):
                self.factored.collect(context, first + int(start))
        self.workers.wait(self.trainer.step, self.loader.batch_size)
        self.steps += 1
        # Early on, the average follows quickly: the first parameters are not worth remembering.
        self.workers.wait(self._move_average, 1.0 - min(self.config.averaging, self.steps / (self.steps + 9.0)))
        return losses

    def _move_average(self, share: float) -> None:
        """Move the running average towards the parameters: (1 - share) * average + share * parameter."""
        is_cpu = self.contexts[0].device_type == "cpu"
        if is_cpu:
            mx.nd.waitall()  # for the next step, too, whose frames are written where this one's were
        for name, parameter in self._list_moving():
            average, value = self.average[name], parameter.data(self.contexts[0])
            if is_cpu and value.dtype == np.float32:  # three to eight times as quick as what MXNet has
                cv2.accumulateWeighted(view_memory(value), view_memory(average), share)
            elif np.issubdtype(value.dtype, np.floating):  # SGD's one pass over the memory, with a weight decay of -1
                mx.nd.sgd_update(average, value, lr=-share, wd=-1.0, out=average)

    def _learning_rate(self, epoch: float) -> float:
        """Return the learning rate at a point in time, in epochs from 0."""
        config = self.config
        if epoch < config.warmup_epochs:
            # Half a step ahead, so that the first step is not wasted on a rate of zero.
            return config.learning_rate * min(1.0, (epoch + 0.5 / len(self.loader)) / config.warmup_epochs)
        if config.schedule == "constant":
            return config.learning_rate
        done = (epoch - config.warmup_epochs) / max(config.epochs - config.warmup_epochs, 1e-9)
        return config.learning_rate * (LOWEST_RATE + (1 - LOWEST_RATE) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))

    def _validate(self) -> float:
        """Return the RMSE of the averaged parameters on the validation rows."""
        here = self.contexts[0]
        trained = {name: parameter.data(here).copy() for name, parameter in self.parameters.items()}
        self._write_parameters(self.average)
        squares = 0.0
        batch = range(*self.workers.share(self.config.batch_size))
        size = len(batch) // len(self.contexts)  # as the first device's in training: in the same memory
        first, last = self.workers.share(len(self.validation))
        for start in range(first, last, size):
            numbers = np.arange(start, min(start + size, last))
            # A full last batch keeps one shape, hence one graph.
            padded = np.resize(numbers, size) if len(numbers) < size else numbers
            frames = self.validation.read(padded)
            predicted = predict(self.learner, frames, self.contexts[0], memory=self.memories[0])[: len(numbers)]
            squares += float(np.sum((predicted.astype(np.float64) - self.validation.steering[numbers]) ** 2))
        self._write_parameters(trained)
        return math.sqrt(sum(self.workers.gather(squares)) / len(self.validation))

    def _share_statistics(self) -> None:
        """Give all workers the mean of what no gradient moves, such as batch norm's statistics of each one's share."""
        if self.workers.count == 1:
            return
        statistics = [(name, each) for name, each in self._list_moving() if each.grad_req == "null"]
        arrays = [array for name, each in statistics for array in (each.data(self.contexts[0]), self.average[name])]
        told = self.workers.gather([array.asnumpy().tolist() for array in arrays])
        for array, values in zip(arrays, zip(*told)):
            array[:] = mx.nd.array(np.mean(values, axis=0))

    def _write_parameters(self, values: Mapping[str, mx.nd.NDArray]) -> None:
        """Change the parameters on the first device, in place."""
        for name, parameter in self.parameters.items():
            values[name].copyto(parameter.data(self.contexts[0]))

    def _read_parameters(self) -> Dict[str, np.ndarray]:
        return {name: parameter.data(self.contexts[0]).asnumpy() for name, parameter in self.parameters.items()}

    def restore_best(self) -> None:
        """Put the best epoch's parameters into the network."""
        for name, value in self.best.items():
            self.parameters[name].set_data(mx.nd.array(value))

    def save(self, path: Path) -> None:
        """Write everything that the next epoch follows from: one file of arrays, in place at once or not at all."""
        optimizer = self.trainer.optimizer
        header = {
            "settings": self._settings(),
            "history": [asdict(record) for record in self.history],
            "steps": self.steps,
            "updates": optimizer.num_update,
            "updates_by_parameter": {str(key): value for key, value in optimizer._index_update_count.items()},
        }
        arrays = {"header": np.frombuffer(json.dumps(header).encode(), np.uint8)}
        arrays.update({f"parameter/{name}": value for name, value in self._read_parameters().items()})
        arrays.update({f"best/{name}": value for name, value in self.best.items()})
        arrays.update({f"average/{name}": value.asnumpy() for name, value in self.average.items()})
        for index, state in self.trainer._updaters[0].states.items():
            for position, part in enumerate(_as_tuple(state)):
                arrays[f"state/{index}/{position}"] = part.asnumpy()
        # As np.savez, whose archive cannot be closed in peace on a full disk.
        with replace_file(path) as file, zipfile.ZipFile(file, "w") as archive:
            for name, value in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, value, allow_pickle=False)

    def resume(self, path: Path) -> None:
        """Take up a checkpoint, if there is one."""
        if not path.exists():
            return
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            header = json.loads(arrays.pop("header").tobytes())
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"the checkpoint {path} cannot be read ({error}); remove it to start anew") from error
        # A setting that there was not yet had its default, and there was a time without several hosts.
        theirs, ours = {"hosts": 1, **TrainingConfig().to_dict(), **header["settings"]}, self._settings()
        differing = [
            f"{name} was {theirs.get(name)}, is {ours.get(name)}" for name in ours if theirs.get(name) != ours[name]
        ]
        if differing:
            raise ValueError(
                f"the checkpoint {path} is of a run with other settings ({'; '.join(differing)}); "
                "continue with those, remove it, or write somewhere else"
            )
        for name, parameter in self.parameters.items():
            parameter.set_data(mx.nd.array(arrays[f"parameter/{name}"]))
            self.average[name][:] = mx.nd.array(arrays[f"average/{name}"])
        self.best = {name: arrays[f"best/{name}"] for name in self.parameters}
        self.steps = header["steps"]
        self.history = [EpochRecord(**record) for record in header["history"]]
        counts = {int(key): value for key, value in header["updates_by_parameter"].items()}
        for updater, context in zip(self.trainer._updaters, self.contexts):
            for index, parameter in enumerate(self.trainer._params):
                if f"state/{index}/0" not in arrays:
                    continue  # no optimizer has changed it: a running mean, or a backbone that was frozen
                fresh = updater.optimizer.create_state_multi_precision(index, parameter.data(context))
                for position, part in enumerate(_as_tuple(fresh)):
                    part[:] = mx.nd.array(arrays[f"state/{index}/{position}"], ctx=context)
                updater.states[index], updater.states_synced[index] = fresh, True
            updater.optimizer.num_update = header["updates"]
            updater.optimizer._set_current_context(context.device_id)  # updates are counted per device
            updater.optimizer._index_update_count.update(counts)
        logger.info("resumed after epoch %d from %s", len(self.history), path)

    def meet_workers(self) -> None:
        """Make sure that all workers are about to do the same, and tell the parameter server of the network."""
        if self.workers.count == 1:
            return
        sets = (self.loader.dataset, self.validation)
        parameters = [*self._read_parameters().values(), *(value.asnumpy() for value in self.average.values())]
        self.workers.agree(
            {
                **self._settings(),
                "devices": ", ".join(map(str, self.contexts)),
                "validation rows": len(self.validation),
                "fingerprint of the rows": _digest(array for each in sets for array in (each.rows, each.steering)),
                "number of epochs in the checkpoint": len(self.history),
                "fingerprint of the parameters": _digest(parameters),
            }
        )
        first, last = self.workers.share(self.config.batch_size)
        logger.info(
            "%d hosts, this is %s (%d of %d): %d of every batch of %d frames here",
            self.workers.count,
            self.workers.host,
            self.workers.rank + 1,
            self.workers.count,
            last - first,
            self.config.batch_size,
        )
        self._reach_workers()

    def _reach_workers(self) -> None:
        """Exchange gradients that nobody needs: the first exchange waits for all to say what they will send."""
        self.workers.wait(self.trainer.allreduce_grads)
        self.workers.wait(mx.nd.waitall)

    def _settings(self) -> Dict[str, Any]:
        """Return what must be the same for a checkpoint to be continued."""
        settings = {name: value for name, value in self.config.to_dict().items() if name not in FREE_SETTINGS}
        settings["network"] = ", ".join(f"{name} {parameter.shape}" for name, parameter in self.parameters.items())
        settings["devices"], settings["hosts"] = len(self.contexts), self.workers.count
        settings["training rows"] = len(self.loader.dataset)
        settings["labels"] = float(np.abs(self.loader.dataset.steering).sum(dtype=np.float64))
        return settings


def _prepare(
    net: mx.gluon.HybridBlock, train: SteeringDataset, contexts: Sequence[mx.Context], config: TrainingConfig
) -> None:
    """Put the network on the devices, initialise what is not, and fix its shapes."""
    mx.random.seed(config.seed)
    parameters = net.collect_params()
    for parameter in parameters.values():
        if _is_fresh(parameter):
            parameter.initialize(ctx=list(contexts), default_init=mx.init.Xavier())
        else:
            parameter.reset_ctx(list(contexts))
    _compile(net, config)
    frame = train.read([0])
    try:
        for context in contexts:  # shapes follow from a first frame
            answers = predict(net, frame, context)
            if len(answers) != 1:
                raise ValueError(f"it answers one frame with {len(answers)} numbers, and one is wanted")
    except (ValueError, mx.MXNetError) as error:
        reason = str(error).strip().splitlines()[-1]
        size = f"{train.spec.height}x{train.spec.width}"
        raise ValueError(f"the network does not take frames of {size}: {reason}") from error


class _Adam(mx.optimizer.Adam):
    """MXNet's, with its means where a step passes over them, the weights and the gradients most quickly."""

    def create_state(self, index: int, weight: mx.nd.NDArray) -> Tuple[mx.nd.NDArray, mx.nd.NDArray]:
        """Return the means of a parameter's gradients and of their squares."""
        return make_beside(weight), make_beside(weight)


def _make_optimizer(config: TrainingConfig) -> mx.optimizer.Optimizer:
    options = {"learning_rate": config.learning_rate, "wd": config.weight_decay}
    if config.optimizer == "adam":
        return _Adam(**options)
    if config.optimizer == "sgd":
        options["momentum"] = 0.9
    return mx.optimizer.create(config.optimizer, **options)


def _compile(net: mx.gluon.HybridBlock, config: TrainingConfig) -> None:
    # With static shapes, MXNet 1.9 updates BatchNorm's running means in no certain order: two runs would differ.
    static_shape = config.hybridize and all(each.grad_req != "null" for each in net.collect_params().values())
    net.hybridize(config.hybridize, static_alloc=config.hybridize, static_shape=static_shape)


def _peel_scaling(net: mx.gluon.HybridBlock) -> Tuple[mx.gluon.HybridBlock, float, float]:
    """Return a network that shares parameters and takes ``scale * frames + offset``; the scale, and the offset."""
    symbol = trace(net)
    peeled, scale, offset = (symbol, 1.0, 0.0) if symbol is None else peel_scaling(symbol)
    block = net if peeled is symbol else make_block(peeled, "data", net.collect_params())
    return (net, 1.0, 0.0) if block is None else (block, scale, offset)


def _is_fresh(parameter: mx.gluon.Parameter) -> bool:
    return parameter._data is None and not parameter._deferred_init


def _derive_seed(seed: int, epoch: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, epoch], spawn_key=(rank,) if rank else ()).generate_state(1)[0] >> 1)


def _digest(arrays: Iterable[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:12]


def _add_up(losses: Sequence[mx.nd.NDArray]) -> float:
    return float(sum(loss.asscalar() for loss in losses))


def _as_tuple(state: Any) -> Tuple[mx.nd.NDArray, ...]:
    """Return an optimizer's state for one parameter (nothing, an array, or several) as a tuple."""
    if state is None:
        return ()
    return tuple(state) if isinstance(state, (tuple, list)) else (state,)


def read_history(path: Union[str, Path]) -> Tuple[EpochRecord, ...]:
    """Read the ``history.csv`` that :func:`fit` wrote, one record an epoch.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is no such file.
    """
    with open(path, newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    try:
        return tuple(
            EpochRecord(int(line.pop("epoch")), **{name: float(value) for name, value in line.items()})
            for line in lines
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no history of a training ({error}); fit() writes {HISTORY}") from error


def _write_history(path: Path, history: Sequence[EpochRecord]) -> None:
    with replace_file(path, "w") as file:
        writer = csv.DictWriter(file, [each.name for each in fields(EpochRecord)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(record) for record in history)


def _draw_history(path: Path, result: TrainingResult) -> None:
    from robostig.figures import draw_loss_curves, save_figure  # matplotlib: only where something is drawn

    save_figure(draw_loss_curves({"": result.history}), path)
