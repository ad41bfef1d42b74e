"""Tuning on one machine: many trials on one recording, of other settings each, and the best trial's artifact.

The ranges are those of :meth:`robostig.config.TrainingConfig.tuning_ranges`, which SageMaker's tuner searches as well.
Every trial is an ordinary training run; one that is worse than the median of the earlier trials at the same epoch is
pruned. All of it is kept in one folder, and goes on from there:

===============  ===================================================================================================
``study.db``     Optuna's study: every trial, its settings, and its RMSE after each epoch (SQLite)
``best/``        the best trial's artifact
``trial/``       the running trial, with the checkpoint that it goes on from after an interruption
``tuning.json``  the result
``tuning.png``   the result as a picture
===============  ===================================================================================================

References
----------
Akiba et al., "Optuna: A Next-generation Hyperparameter Optimization Framework", 2019, arXiv:1907.10902.
Bergstra et al., "Algorithms for Hyper-Parameter Optimization", 2011: the tree-structured Parzen estimator.
Hutter et al., "An Efficient Approach for Assessing Hyperparameter Importance", 2014: fANOVA.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import math
import os
import shutil
import sqlite3
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple, Union

import numpy as np
from tqdm import tqdm

import robostig
from robostig._files import make_folder, replace_file
from robostig.artifact import read_facts
from robostig.backend import mx
from robostig.config import TrainingConfig
from robostig.driving_log import Places
from robostig.figures import draw_tuning, save_figure
from robostig.metrics import DEGREES
from robostig.models import get_spec
from robostig.pipeline import WORKDIR, Recording, build_model, read_recording, train_model
from robostig.training import CHECKPOINT, FREE_SETTINGS, EpochRecord

try:
    import optuna
    import sklearn  # noqa: F401  # Optuna's fANOVA is made of its trees
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool
except ImportError as error:
    raise ImportError(f'{error.name} is needed for tuning, and not installed: pip install "robostig[tune]"') from error

__all__ = ["BEST", "PICTURE", "TUNING", "Trial", "Tuning", "describe_range", "list_changes", "tune"]

logger = logging.getLogger(__name__)

STUDY, BEST, TRIAL, TUNING, PICTURE = "study.db", "best", "trial", "tuning.json", "tuning.png"
LOCK = ".lock"

LOCAL = ("device", "cache_gb")  # of this machine: nothing that SageMaker should be told
DIGITS = 4  # of a setting that is tried: more say nothing, and have to be typed
BEFORE_PRUNING = 4  # finished trials, before a median means anything
FOR_IMPORTANCES = 20  # finished trials; with fewer, fANOVA ranks settings that do nothing above those that do
MOST_STARTS = 3  # of a trial in which the process died: it may be what killed it, as one too large for the memory

FINISHED, PRUNED, FAILED = "finished", "pruned", "failed"
_STATES = {
    optuna.trial.TrialState.COMPLETE: FINISHED,
    optuna.trial.TrialState.PRUNED: PRUNED,
    optuna.trial.TrialState.FAIL: FAILED,
}


@dataclass(frozen=True)
class Trial:
    """One trial that is over.

    Parameters
    ----------
    number
        From 1.
    state
        ``"finished"``, ``"pruned"`` or ``"failed"``.
    settings
        What it tried: a value for each name of the search space.
    is_default
        Whether these are not tried but the defaults, to compare with.
    rmse
        The best epoch's, on the held-out rows; 1.0 is 25 degrees. A pruned trial's is that of the epochs it had; None
        if there was none.
    epochs
        How many it had.
    reason
        Why it failed, or empty.
    """

    number: int
    state: str
    settings: Mapping[str, Any]
    is_default: bool
    rmse: Optional[float]
    epochs: int
    reason: str = ""


@dataclass(frozen=True)
class Tuning:
    """The outcome of :func:`tune`.

    Parameters
    ----------
    config
        What all trials share, and the defaults of what is searched.
    space
        Name to what was searched, as :meth:`~robostig.config.TrainingConfig.tuning_ranges` has it.
    trials
        All that are over, by number; at least one is finished.
    importances
        Name to the share of the trials' differences that it explains (fANOVA), the largest first; empty if too few
        trials are finished.
    folder
        Where it is kept.
    """

    config: TrainingConfig
    space: Mapping[str, Tuple[Any, ...]]
    trials: Tuple[Trial, ...]
    importances: Mapping[str, float]
    folder: Path

    @property
    def best(self) -> Trial:
        """The finished trial with the lowest RMSE."""
        return min((trial for trial in self.trials if trial.state == FINISHED), key=_get_rmse)

    @property
    def default(self) -> Optional[Trial]:
        """The defaults' trial, the best model's if several were; None if none of them finished."""
        finished = [trial for trial in self.trials if trial.is_default and trial.state == FINISHED]
        return min(finished, key=_get_rmse, default=None)

    @property
    def best_config(self) -> TrainingConfig:
        """What the best trial was trained with."""
        return replace(self.config, **self.best.settings)

    @property
    def hyperparameters(self) -> Dict[str, Any]:
        """The best settings as SageMaker's estimator takes them: the model, and what differs from the defaults."""
        changes = list_changes(self.best_config)
        return {
            "model": self.best_config.model,
            **{name: value for name, value in changes.items() if name not in LOCAL},
        }

    def count_states(self) -> Dict[str, int]:
        """Return how many trials finished, were pruned, and failed."""
        return {state: sum(trial.state == state for trial in self.trials) for state in _STATES.values()}

    def to_dict(self) -> Dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return {
            "best": asdict(self.best),
            "default": None if self.default is None else asdict(self.default),
            "hyperparameters": self.hyperparameters,
            "importances": dict(self.importances),
            "space": {name: list(options) for name, options in self.space.items()},
            "config": self.config.to_dict(),
            "trials": [asdict(trial) for trial in self.trials],
            "robostig": robostig.__version__,
        }


class _TimeIsUpError(Exception):
    """Ends the running trial, which goes on with the next call."""


def tune(
    folder: Places,
    out: Union[str, Path],
    config: TrainingConfig,
    *,
    trials: int,
    space: Optional[Mapping[str, Tuple[Any, ...]]] = None,
    minutes: Optional[float] = None,
    validation_folder: Union[str, Path, None] = None,
) -> Tuning:
    """Search the settings with which a model is closest to the driver on held-out rows.

    Trials try the defaults first (each model's), then settings at random, then those that earlier trials speak for
    (TPE). ``config.seed`` decides all of them: two runs on the CPU try the same, interrupted or not.

    Parameters
    ----------
    folder
        A recording, as in :func:`~robostig.pipeline.read_recording`.
    out
        Where everything is kept, see above. A study that is there goes on.
    config
        What is not searched, and the defaults of what is.
    trials
        How many there should be in all, those of earlier calls among them.
    space
        What to search; ``TrainingConfig.tuning_ranges()`` if None. ``"model"`` may be in it.
    minutes
        Stop after the epoch that is running then; never if None.
    validation_folder
        A recording of its own to hold out.

    Raises
    ------
    ValueError
        If there is nothing to search or to learn from, ``out`` holds a study of something else, or no trial finished.
    FileNotFoundError, FileExistsError, BlockingIOError, OSError
        If there is no recording, or ``out`` holds something else, is in use by another process, or cannot be written.
    """
    space = dict(TrainingConfig.tuning_ranges() if space is None else space)
    if trials < 1:
        raise ValueError(f"trials is {trials}; it is how many there should be in all, at least 1")
    if minutes is not None and not minutes > 0.0:
        raise ValueError(f"minutes is {minutes:g}; it is more than 0")
    for model in space.get("model", (config.model,)):
        build_model(replace(config, model=model))
    out = Path(out)
    _check_folder(out)
    recording = read_recording(folder, config, validation_folder=validation_folder)
    logger.info(recording.describe())
    are_there = recording.log is not None and len(recording.log.pictures) > 1
    if not are_there or ("side_cameras" not in space and config.side_cameras == 0.0):
        useless = [name for name in ("side_cameras", "camera_correction") if space.pop(name, None)]
        if useless:
            logger.info("not searched, because there are no side cameras to learn from: %s", ", ".join(useless))
    if not space:
        raise ValueError(f"there is nothing to search: leave one of these free: {', '.join(config.tuning_ranges())}")
    deadline = math.inf if minutes is None else time.monotonic() + 60.0 * minutes
    with _lock(make_folder(out)), _explain_storage(out / STUDY):
        search = _Search(out, config, space, recording, deadline)
        search.begin()
        return search.run(trials)


def list_changes(config: TrainingConfig) -> Dict[str, Any]:
    """Return the settings that differ from the defaults."""
    defaults = TrainingConfig().to_dict()
    return {name: value for name, value in config.to_dict().items() if value != defaults[name]}


def describe_range(options: Tuple[Any, ...]) -> str:
    """Return in words what is searched for a setting."""
    if not _is_range(options):
        return " or ".join(map(str, options))
    return f"{options[0]:g} to {options[1]:g}{' (log)' if 'log' in options else ''}"


class _Search:
    """A study, and the steps that take it further."""

    def __init__(
        self,
        out: Path,
        config: TrainingConfig,
        space: Mapping[str, Tuple[Any, ...]],
        recording: Recording,
        deadline: float,
    ) -> None:
        self.out, self.config, self.space, self.recording, self.deadline = out, config, space, recording, deadline
        self.models: Tuple[str, ...] = space.get("model", (config.model,))
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(
            storage=optuna.storages.RDBStorage(  # by no address: a folder may be called a?b
                "sqlite://", engine_kwargs={"creator": lambda: sqlite3.connect(out / STUDY), "poolclass": NullPool}
            ),
            study_name="robostig",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(
                BEFORE_PRUNING, n_warmup_steps=1 + math.ceil(config.warmup_epochs), n_min_trials=2
            ),
        )

    def begin(self) -> None:
        """Make sure that the study is of this, decode all frames, and queue the defaults."""
        settings = self._list_settings()
        noted = self.study.user_attrs.get("settings", settings)
        differing = [
            f"{name} was {noted.get(name)}, is {settings.get(name)}"
            for name in {**noted, **settings}
            if noted.get(name) != settings.get(name)
        ]
        if differing:
            raise ValueError(
                f"{self.out} holds a study of something else ({'; '.join(differing)}); go on as it was begun, or name "
                "another folder"
            )
        for model in self.models:  # now: what is wrong with the data must not be taken for the fault of a trial
            self.recording.open(get_spec(model).input, self.config)
        self.study.set_user_attr("settings", settings)
        if not self.study.trials:
            for model in self.models:
                defaults = {**self.config.to_dict(), "model": model}
                self.study.enqueue_trial({name: defaults[name] for name in self.space if self._is_inside(name)})

    def run(self, trials: int) -> Tuning:
        """Run trials until there are so many, or time is up."""
        running = self._find_running()
        if running is None:
            self._keep_best()  # of a trial after which the process died
        done = self._list_trials()
        if done:
            logger.info("%s holds %d of %d trials", self.out, len(done), trials)
        try:
            with tqdm(total=trials, initial=min(trials, len(done)), desc="trials", unit="trial", disable=None) as bar:
                while len(done) < trials:
                    # A sampler of its own for each trial: an interrupted study draws what it would have drawn.
                    seed = np.random.SeedSequence([self.config.seed, len(done)]).generate_state(1)[0]
                    self.study.sampler = optuna.samplers.TPESampler(seed=int(seed))
                    self._run_trial(self.study.ask() if running is None else running)
                    running, done = None, self._list_trials()
                    self._keep_best()
                    self._log(done, trials)
                    bar.update()
        except _TimeIsUpError:
            logger.info("time is up; the same command goes on from here")
        finally:  # interrupted or not, there is something to look at
            if any(trial.state == FINISHED for trial in done):
                self._write(self._summarize(done))
        return self._summarize(done)

    def _list_settings(self) -> Dict[str, Any]:
        """Return what must be the same for the study to go on: fixed settings, ranges, and the recording."""
        settings = {name: value for name, value in self.config.to_dict().items() if name not in FREE_SETTINGS}
        settings.update({name: describe_range(options) for name, options in self.space.items()})
        facts = self.recording.facts()
        fingerprints = [facts[name][:12] for name in ("fingerprint", "validation_fingerprint") if name in facts]
        return {**settings, "recording": " and ".join(dict.fromkeys(fingerprints))}

    def _find_running(self) -> Optional[optuna.Trial]:
        """Return the trial in which an earlier process ended."""
        running = self.study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING])
        return optuna.Trial(self.study, running[0]._trial_id) if running else None

    def _run_trial(self, trial: optuna.Trial) -> None:
        """Train with the settings of a trial, and tell the study what came of it."""
        settings = self._choose_settings(trial)
        starts = trial.user_attrs.get("starts", 0)
        if starts >= MOST_STARTS:
            self._fail(trial, f"the process died {starts} times in it; is there enough memory?")
            return
        trial.set_user_attr("starts", starts + 1)
        known = self.study.trials[trial.number].intermediate_values
        if known:
            logger.info("trial %d goes on after epoch %d", trial.number + 1, max(known))

        def report(record: EpochRecord) -> None:
            if record.epoch not in known:  # by a process that died before the checkpoint
                trial.report(record.validation_rmse, record.epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
            if time.monotonic() > self.deadline:
                raise _TimeIsUpError

        try:
            trained = train_model(
                replace(self.config, **settings),
                self.recording,
                self.out / TRIAL,
                keep_checkpoint=True,  # until the study knows
                on_epoch=report,
            )
        except optuna.TrialPruned:
            self.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        except (ValueError, MemoryError, mx.MXNetError) as error:
            self._fail(trial, (str(error).strip() or type(error).__name__).splitlines()[-1])
        except BaseException:
            trial.set_user_attr("starts", starts)  # no sudden death
            raise
        else:
            self.study.tell(trial, trained.training.validation_rmse)

    def _fail(self, trial: optuna.Trial, reason: str) -> None:
        trial.set_user_attr("reason", reason)
        self.study.tell(trial, state=optuna.trial.TrialState.FAIL)

    def _choose_settings(self, trial: optuna.Trial) -> Dict[str, Any]:
        """Return what a trial tries; one that was interrupted tries what it did."""
        for name, options in self.space.items():
            if trial.number < len(self.models) and not self._is_inside(name):
                continue  # a default that the search would not try, as no weight decay at all
            if _is_range(options):
                trial.suggest_float(name, *options[:2], log="log" in options)
            else:
                trial.suggest_categorical(name, options)
        return self._read_settings(trial)

    def _read_settings(self, trial: Union[optuna.Trial, optuna.trial.FrozenTrial]) -> Dict[str, Any]:
        chosen = {name: trial.params.get(name, getattr(self.config, name)) for name in self.space}
        return {
            name: float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value for name, value in chosen.items()
        }

    def _is_inside(self, name: str) -> bool:
        """Say whether a setting's default is among what is searched; every model is one."""
        options, default = self.space[name], getattr(self.config, name)
        return name == "model" or (options[0] <= default <= options[1] if _is_range(options) else default in options)

    def _list_trials(self) -> List[Trial]:
        """Return the trials that are over."""
        trials = []
        for each in self.study.get_trials(deepcopy=False, states=tuple(_STATES)):
            rmse = list(each.intermediate_values.values())
            trials.append(
                Trial(
                    number=each.number + 1,
                    state=_STATES[each.state],
                    settings=self._read_settings(each),
                    is_default=each.number < len(self.models),
                    rmse=each.value if _STATES[each.state] == FINISHED else min(rmse, default=None),
                    epochs=max(each.intermediate_values, default=0),
                    reason=each.user_attrs.get("reason", ""),
                )
            )
        return trials

    def _keep_best(self) -> None:
        """Put the last trial's artifact in place of the best one if it is that, and remove what else it left."""
        last, best, outdated = (self.out / name for name in (TRIAL, BEST, f".{BEST}.old"))
        winner = min((trial for trial in self._list_trials() if trial.state == FINISHED), key=_get_rmse, default=None)
        with contextlib.suppress(FileNotFoundError):  # a trial that was pruned or failed leaves none
            config = TrainingConfig.from_dict(read_facts(last)["config"])
            free = {name: getattr(self.config, name) for name in FREE_SETTINGS}
            if winner is not None and replace(config, **free) == replace(self.config, **winner.settings):
                (last / WORKDIR / CHECKPOINT).unlink(missing_ok=True)
                shutil.rmtree(outdated, ignore_errors=True)
                if best.exists():
                    os.replace(best, outdated)
                os.replace(last, best)  # a process that dies before this line finds both when it begins anew
        for folder in (last, outdated):
            shutil.rmtree(folder, ignore_errors=True)

    def _summarize(self, done: List[Trial]) -> Tuning:
        if not any(trial.state == FINISHED for trial in done):
            failed = [trial.reason for trial in done if trial.state == FAILED]
            reason = f"all failed, the last one because {failed[-1]}" if failed else "the same command goes on"
            raise ValueError(f"no trial has finished yet: {reason}")
        return Tuning(self.config, self.space, tuple(done), self._explain_differences(done), self.out)

    def _explain_differences(self, done: List[Trial]) -> Dict[str, float]:
        rmse = [trial.rmse for trial in done if trial.state == FINISHED]
        if len(rmse) < FOR_IMPORTANCES or len(set(rmse)) < 2:
            return {}
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        return optuna.importance.get_param_importances(self.study, evaluator=evaluator, params=list(self.space))

    def _write(self, tuning: Tuning) -> None:
        with replace_file(self.out / TUNING, "w") as file:
            file.write(json.dumps(tuning.to_dict(), indent=2, allow_nan=False) + "\n")
        save_figure(draw_tuning(tuning.trials, tuning.space, tuning.importances), self.out / PICTURE)

    def _log(self, done: List[Trial], trials: int) -> None:
        """Say in a line what came of the last trial."""
        last = done[-1]
        outcome = last.state
        if last.rmse is not None:
            outcome += f", rmse={last.rmse:.5f} ({last.rmse * DEGREES:.2f} degrees)"
        if last.state == PRUNED:
            outcome += f" after epoch {last.epochs} of {self.config.epochs}"
        if last.state == FAILED:
            outcome += f": {last.reason}"
        if last.state == FINISHED and last == min((each for each in done if each.state == FINISHED), key=_get_rmse):
            outcome += ", the best"
        changes = {name: value for name, value in last.settings.items() if value != getattr(self.config, name)}
        tried = ", ".join(f"{name} {value}" for name, value in changes.items())
        logger.info("trial %d of %d %s; %s", last.number, trials, outcome, tried or "the defaults")


def _get_rmse(trial: Trial) -> float:
    return math.inf if trial.rmse is None else trial.rmse


def _is_range(options: Tuple[Any, ...]) -> bool:
    """Say whether these are the ends of a range, and not choices."""
    return isinstance(options[0], float)


def _check_folder(out: Path) -> None:
    """Raise FileExistsError if there is something else than a study."""
    if out.is_dir() and not (out / STUDY).is_file():
        others = sorted(path.name for path in out.iterdir() if path.name != LOCK)
        if others:
            raise FileExistsError(f"{out} holds {', '.join(others[:5])} and no study to go on with; name a new folder")


@contextlib.contextmanager
def _lock(out: Path) -> Iterator[None]:
    """Keep other processes away from a study; a lock ends with its process, however that ends."""
    with open(out / LOCK, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(f"another process is tuning in {out}; wait for it, or name another folder") from error
        yield


@contextlib.contextmanager
def _explain_storage(path: Path) -> Iterator[None]:
    """Turn what a damaged study or a full disk raises into an OSError of one line."""
    try:
        yield
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise OSError(f"the study in {path} cannot be read or written: {reason}") from error
