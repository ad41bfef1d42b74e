from __future__ import annotations

import argparse
import json
from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest

from robostig.config import TrainingConfig

FIELDS = fields(TrainingConfig)


def parse(*flags: str) -> TrainingConfig:
    parser = argparse.ArgumentParser()
    TrainingConfig.add_arguments(parser)
    return TrainingConfig.from_arguments(parser.parse_args(flags))


def spell(each, separator: str) -> str:
    return "--" + each.name.replace("_", separator)


@pytest.mark.parametrize("separator", ["-", "_"])
@pytest.mark.parametrize("each", FIELDS, ids=lambda each: each.name)
def test_every_field_has_a_flag_in_both_spellings(each, separator):
    value = {bool: "false", int: "3", float: "0.5"}.get(type(each.default)) or (each.metadata["choices"] or ("cpu:2",))[
        -1
    ]
    parsed = getattr(parse(spell(each, separator), value), each.name)
    assert type(parsed) is type(each.default) and parsed == (json.loads(value) if parsed != value else value)


def test_no_flags_give_the_defaults():
    assert parse() == TrainingConfig()


def test_the_second_modules_misspelling_works():
    assert parse("--optmizer", "sgd").optimizer == "sgd"
    assert TrainingConfig.from_dict({"optmizer": "sgd"}).optimizer == "sgd"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("False", False), ("false", False), ("0", False), ("no", False), ("True", True), ("true", True), (" ON ", True)],
)
@pytest.mark.parametrize("quoted", [False, True])
def test_booleans_are_read_and_not_cast(text, expected, quoted):
    assert parse("--hybridize", f'"{text}"' if quoted else text).hybridize is expected


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("epochs", "3", 3),
        ("epochs", "3.0", 3),
        ("epochs", "1e3", 1000),
        ("epochs", '"3"', 3),
        ("learning_rate", "1e-05", 1e-05),
        ("learning_rate", "1", 1.0),
        ("optimizer", '"sgd"', "sgd"),
        ("model", '"comma"', "comma"),
    ],
)
def test_texts_are_parsed_as_sagemaker_and_tuners_send_them(name, text, expected):
    assert getattr(TrainingConfig.from_dict({name: text}), name) == expected


def test_numpys_numbers_and_capitals_are_understood():
    config = TrainingConfig(epochs=np.int64(3), learning_rate=np.float32(0.5), optimizer="Adam")
    assert (config.epochs, config.learning_rate, config.optimizer) == (3, 0.5, "adam")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("epochs", "3.5", "epochs is '3.5'; it takes a whole number, 1 to 10000"),
        ("epochs", "many", "epochs is 'many'; it takes a whole number"),
        ("epochs", "nan", "epochs is 'nan'"),
        ("epochs", "inf", "epochs is 'inf'"),
        ("epochs", 0, "epochs is 0; it takes 1 to 10000; default "),
        ("epochs", 3.5, "epochs is 3.5"),
        ("epochs", True, "epochs is True"),
        ("batch_size", 4097, "1 to 4096"),
        ("learning_rate", "0.1,", "learning_rate is '0.1,'; it takes a number"),
        ("learning_rate", 0, "1e-07 to 1"),
        ("learning_rate", "nan", "learning_rate is nan"),
        ("gap_s", "-1", "gap_s is -1.0; it takes at least 0"),
        ("gap_s", "inf", "gap_s is inf"),
        ("cache_gb", float("inf"), "cache_gb is inf"),
        ("flip", 1.01, "0 to 1"),
        ("optimizer", "lion", "optimizer is 'lion'; it takes one of adam, sgd"),
        ("hybridize", "maybe", "hybridize is 'maybe'; it takes true or false"),
        ("hybridize", 1, "hybridize is 1"),
        ("seed", -1, "seed is -1"),
        ("model", None, "model is None"),
    ],
)
def test_what_is_not_allowed_is_refused_with_what_is(name, value, message):
    with pytest.raises(ValueError) as caught:
        TrainingConfig.from_dict({name: value})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("epoch", "epochs"), ("learningrate", "learning_rate"), ("optmzer", "optimizer"), ("gap-m", "gap_s")],
)
def test_an_unknown_name_is_refused_with_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=f"no setting '{name}' .did you mean {nearest}\\?.; there are: model"):
        TrainingConfig.from_dict({name: "1"})


def test_a_name_near_nothing_is_refused_without_a_guess():
    with pytest.raises(ValueError, match="no setting '_tuning_objective_metric'; there are: model"):
        TrainingConfig.from_dict({"_tuning_objective_metric": "x"})


def test_the_help_describes_every_field_once():
    parser = argparse.ArgumentParser()
    TrainingConfig.add_arguments(parser)
    text = " ".join(parser.format_help().split())
    flags = text[text.index("hyperparameters:") :].split()
    for each in FIELDS:
        rules = each.metadata
        assert flags.count(spell(each, "-")) == 1
        assert " ".join(rules["help"].split()) in text
        allowed = ", ".join(
            rules["choices"] or [f"{rules[key]:g}" for key in ("low", "high")[:1] if rules[key] is not None]
        )
        assert allowed in text and f"default {each.default})" in text
    assert "optmizer" not in text and "--learning_rate" not in text


def test_flags_can_be_left_out():
    parser = argparse.ArgumentParser()
    TrainingConfig.add_arguments(parser, leave_out=("model",))
    assert "--model" not in parser.format_help()
    assert TrainingConfig.from_arguments(parser.parse_args(["--epochs", "2"])) == TrainingConfig(epochs=2)


def test_it_is_frozen():
    with pytest.raises(FrozenInstanceError):
        TrainingConfig().epochs = 3


def test_it_survives_json_and_texts():
    config = TrainingConfig(model="comma", epochs=3, learning_rate=3e-4, hybridize=False, device="cpu:2", seed=7)
    assert TrainingConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert TrainingConfig.from_dict({name: str(value) for name, value in config.to_dict().items()}) == config


def test_the_ends_of_tuning_ranges_are_allowed():
    ranges = TrainingConfig.tuning_ranges()
    assert {"learning_rate", "batch_size", "optimizer"} <= set(ranges)
    for name, values in ranges.items():
        numbers = values[:2] if "log" in values else values
        for value in numbers:
            assert getattr(TrainingConfig.from_dict({name: value}), name) == value
        if values[-1] == "log":
            assert len(values) == 3 and 0 < values[0] < values[1]
