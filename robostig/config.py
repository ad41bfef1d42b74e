"""What training can be told: one frozen dataclass, from which flags, help texts, tuning ranges and records follow."""

from __future__ import annotations

import argparse
import difflib
import functools
import math
import typing
from dataclasses import Field, asdict, dataclass, field, fields
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

__all__ = ["TrainingConfig"]


def _option(
    default: Any,
    help: str,
    *,
    low: Optional[float] = None,
    high: Optional[float] = None,
    choices: Optional[Sequence[str]] = None,
    tune: Optional[Tuple[Any, ...]] = None,
    aliases: Sequence[str] = (),
) -> Any:
    """Describe a field: its help, what is allowed, what a tuner should try, and other names it goes by."""
    return field(
        default=default,
        metadata={"help": help, "low": low, "high": high, "choices": choices, "tune": tune, "aliases": tuple(aliases)},
    )


@dataclass(frozen=True)
class TrainingConfig:
    """Everything that decides what a training run does; ``robostig train --help`` prints the fields.

    Raises
    ------
    ValueError
        If a value is outside its range, or is none of the choices.
    """

    model: str = _option("nvidia", "the network to train, by its registered name; `robostig models` lists them")
    pretrained: bool = _option(False, "begin with trained weights; `robostig models` lists which models have some")
    freeze_epochs: int = _option(
        0,
        "epochs at the beginning in which trained layers before the head stay as they are, batch normalisation's "
        "statistics too; as many as epochs, or more, hold them throughout",
        low=0,
    )
    epochs: int = _option(24, "passes over the training rows, at the most", low=1, high=10_000)
    batch_size: int = _option(64, "frames in a batch, over all devices", low=1, high=4096, tune=(32, 64, 128))
    learning_rate: float = _option(
        0.001, "the highest learning rate of the schedule", low=1e-7, high=1.0, tune=(1e-4, 1e-2, "log")
    )
    optimizer: str = _option(
        "adam",
        "how gradients change parameters",
        choices=("adam", "sgd", "rmsprop", "adagrad", "adadelta"),
        tune=("adam", "sgd"),
        aliases=("optmizer",),  # as the pipeline's second module spells it
    )
    schedule: str = _option(
        "cosine",
        "cosine falls to a hundredth over all epochs (Loshchilov and Hutter 2017), constant stays",
        choices=("cosine", "constant"),
    )
    warmup_epochs: float = _option(1.0, "epochs in which the learning rate rises from zero", low=0.0, high=1000.0)
    weight_decay: float = _option(0.0, "L2 penalty on the parameters", low=0.0, high=1.0, tune=(1e-6, 1e-2, "log"))
    averaging: float = _option(
        0.99,
        "weight of the past in the running average of the parameters, which is what is kept; 0 for none",
        low=0.0,
        high=0.9999,
    )
    patience: int = _option(12, "stop after this many epochs without a better validation RMSE; 0 never stops", low=0)
    balance: float = _option(
        0.25, "over-sample curves: 0 as recorded, 1 every angle alike", low=0.0, high=1.0, tune=(0.0, 1.0)
    )
    side_cameras: float = _option(
        0.67, "share of frames from the left and right camera", low=0.0, high=1.0, tune=(0.0, 0.8)
    )
    camera_correction: float = _option(
        # 0.2 is the published constant for slow driving; at the simulator's 30 mph it is far more than a human steers.
        0.05,
        "steering added for a left frame, taken for a right one; 1 is 25 degrees",
        low=0.0,
        high=1.0,
        tune=(0.02, 0.2),
    )
    flip: float = _option(0.5, "share of frames mirrored, with the sign", low=0.0, high=1.0)
    shift: float = _option(0.5, "share of frames seen from further left or right, with the steering", low=0.0, high=1.0)
    shadow: float = _option(0.3, "share of frames with a random shadow", low=0.0, high=1.0)
    brightness: float = _option(0.25, "share of frames lightened or darkened", low=0.0, high=1.0)
    tint: float = _option(0.0, "share of frames in a warmer or colder light", low=0.0, high=1.0)
    scenery: float = _option(0.75, "share of frames that get another frame's view above the horizon", low=0.0, high=1.0)
    bonnet: float = _option(
        0.5, "share of frames that get another frame's lowest rows, with the bonnet", low=0.0, high=1.0
    )
    validation_fraction: float = _option(
        0.2, "share of the drive that is held out, rounded to one stretch in 2, 3, 4, ...", low=0.01, high=0.5
    )
    stretch_s: float = _option(10.0, "length of a held-out stretch, in seconds of driving", low=0.1)
    gap_s: float = _option(1.0, "seconds around a held-out stretch that are not trained on", low=0.0)
    on_error: str = _option(
        "raise", "what to do with bad rows of the log: stop, or leave them out and say so", choices=("raise", "skip")
    )
    cache_gb: float = _option(20.0, "gigabytes of disk for decoded frames; those beyond are decoded as needed", low=0.0)
    hybridize: bool = _option(True, "compile the network; False runs it layer by layer, for debugging")
    dtype: str = _option(
        "float32",
        "float32, or mixed precision: float16 on GPUs, bfloat16 on CPUs with AVX-512",
        choices=("float32", "float16", "bfloat16"),
    )
    device: str = _option("auto", "auto (GPUs if usable), cpu, gpu, or a number of them: cpu:4, gpu:2")
    seed: int = _option(
        0, "of everything random; two runs on the CPU with the same seed are equal", low=0, high=2**31 - 1
    )

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, np.generic):  # numpy's numbers are numbers
                value = value.item()
            if each.metadata["choices"] and isinstance(value, str):
                value = value.lower()
            object.__setattr__(self, each.name, value)
            _check(each, value)

    def to_dict(self) -> Dict[str, Any]:
        """Return the fields as plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingConfig:
        """Build a configuration from names and values; texts are parsed, other spellings of names understood.

        Raises
        ------
        ValueError
            For an unknown name, with the nearest one, or a value that is not allowed.
        """
        names = {spelling: each for each in fields(cls) for spelling in _spellings(each)}
        known: Dict[str, Any] = {}
        for name, value in values.items():
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                hint = f" (did you mean {names[near[0]].name}?)" if near else ""
                raise ValueError(
                    f"there is no setting {name!r}{hint}; there are: {', '.join(each.name for each in fields(cls))}"
                )
            each = names[name]
            if isinstance(value, str):
                value = _parse(each, value)
            elif isinstance(value, float) and _types()[each.name] is int and value.is_integer():
                value = int(value)  # JSON has one kind of number
            known[each.name] = value
        return cls(**known)

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser, *, leave_out: Sequence[str] = ()) -> None:
        """Give a parser one flag a field, in both spellings: ``--learning-rate`` and ``--learning_rate``.

        Flags that are not given leave nothing in the namespace; :meth:`from_arguments` builds the configuration.
        """
        group = parser.add_argument_group("hyperparameters")
        for each in fields(cls):
            if each.name in leave_out:
                continue
            shown, *others = [f"--{spelling}" for spelling in _spellings(each)]
            group.add_argument(
                shown,
                dest=each.name,
                metavar=_types()[each.name].__name__.upper(),
                default=argparse.SUPPRESS,
                help=f"{each.metadata['help']} ({_describe(each)})".replace("%", "%%"),
            )
            if others:
                group.add_argument(*others, dest=each.name, default=argparse.SUPPRESS, help=argparse.SUPPRESS)

    @classmethod
    def from_arguments(
        cls, arguments: argparse.Namespace, *, recipe: Optional[Mapping[str, Any]] = None
    ) -> TrainingConfig:
        """Build the configuration from what the flags of :meth:`add_arguments` left; raises as :meth:`from_dict`.

        Where no flag was given, ``recipe`` goes before the defaults.
        """
        given = {each.name: vars(arguments)[each.name] for each in fields(cls) if each.name in arguments}
        return cls.from_dict({**(recipe or {}), **given})

    @classmethod
    def tuning_ranges(cls) -> Dict[str, Tuple[Any, ...]]:
        """Return what a tuner should try: name -> (low, high), (low, high, "log"), or the choices."""
        return {each.name: each.metadata["tune"] for each in fields(cls) if each.metadata["tune"]}


_NOUNS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


@functools.lru_cache(maxsize=None)
def _types() -> Dict[str, type]:
    return typing.get_type_hints(TrainingConfig)


def _spellings(each: Field[Any]) -> List[str]:
    """Return the names a field goes by, the one that help shows first."""
    names = [each.name, *each.metadata["aliases"]]
    return list(dict.fromkeys([name.replace("_", "-") for name in names] + names))


def _parse(each: Field[Any], text: str) -> Any:
    kind = _types()[each.name]
    text = text.strip().strip('"').strip()  # SageMaker sends text hyperparameters as JSON
    if kind is bool:
        if text.lower() in ("true", "yes", "on", "1"):
            return True
        if text.lower() in ("false", "no", "off", "0"):
            return False
        raise ValueError(f"{each.name} is {text!r}; it takes true or false")
    try:
        if kind is int:
            value = float(text)  # tuners send 3.0, and 1e3 is a number too
            if value != int(value):
                raise ValueError
            return int(value)
        return kind(text)
    except (ValueError, OverflowError):
        raise ValueError(f"{each.name} is {text!r}; it takes {_NOUNS[kind]}, {_describe(each)}") from None


def _check(each: Field[Any], value: Any) -> None:
    kind, rules = _types()[each.name], each.metadata
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ValueError(f"{each.name} is {value!r}; it takes {_NOUNS[kind]}, {_describe(each)}")
    too_low = rules["low"] is not None and not value >= rules["low"]
    too_high = rules["high"] is not None and not value <= rules["high"]
    endless = isinstance(value, float) and math.isinf(value)
    if too_low or too_high or endless or (rules["choices"] and value not in rules["choices"]):
        raise ValueError(f"{each.name} is {value!r}; it takes {_describe(each)}")


def _describe(each: Field[Any]) -> str:
    """Say what a field takes, and its default."""
    low, high, choices = (each.metadata[key] for key in ("low", "high", "choices"))
    if choices:
        allowed = f"one of {', '.join(choices)}; "
    elif low is not None and high is not None:
        allowed = f"{low:.10g} to {high:.10g}; "
    elif low is not None:
        allowed = f"at least {low:g}; "
    else:
        allowed = ""
    return f"{allowed}default {each.default}"
