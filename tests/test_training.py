from __future__ import annotations

import csv
import json
import logging
import mmap
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Optional, Sequence, Tuple

import numpy as np
import pytest
from conftest import draw_road

from robostig.backend import mx, view_memory
from robostig.config import TrainingConfig
from robostig.data import SteeringDataset
from robostig.pilot import predict
from robostig.preprocessing import InputSpec, preprocess
from robostig.training import CHECKPOINT, EpochRecord, TrainingResult, fit, read_history

nn = mx.gluon.nn

SPEC = InputSpec(12, 24, crop_top=0.3)
# 96 rows in batches of 32: three steps an epoch.
CONFIG = TrainingConfig(
    epochs=4,
    batch_size=32,
    learning_rate=0.01,
    optimizer="adam",
    schedule="cosine",
    warmup_epochs=1.0,
    weight_decay=1e-4,
    patience=0,
    balance=0.5,
    side_cameras=0.5,
    camera_correction=0.05,
    flip=0.5,
    shift=0.2,
    shadow=0.2,
    brightness=0.5,
    seed=3,
    device="cpu",
)
PLAIN = replace(CONFIG, balance=0.0, side_cameras=0.0, flip=0.0, shift=0.0, shadow=0.0, brightness=0.0)
Sets = Tuple[SteeringDataset, SteeringDataset]


class Frames:
    """Frames in memory; from the ``stop_at``-th time of reading on, somebody presses Ctrl-C."""

    def __init__(self, frames: np.ndarray, stop_at: Optional[int] = None) -> None:
        self.frames, self.spec, self.stop_at, self.reads = frames, SPEC, stop_at, 0

    def __len__(self) -> int:
        return len(self.frames)

    def read(self, numbers: Sequence[int], out: Optional[np.ndarray] = None) -> np.ndarray:
        self.reads += 1
        if self.stop_at is not None and self.reads >= self.stop_at:
            raise KeyboardInterrupt
        return np.take(self.frames, numbers, axis=0, out=out)


def make_set(count: int, phase: float = 0.0) -> SteeringDataset:
    steering = 0.6 * np.sin(np.arange(count) / 5.0 + phase).astype(np.float32)
    frames = {
        camera: Frames(
            np.stack([preprocess(draw_road(angle, offset=offset, height=40, width=48), SPEC) for angle in steering])
        )
        for camera, offset in (("center", 0.0), ("left", -0.1), ("right", 0.1))
    }
    return SteeringDataset(frames, steering)


@pytest.fixture(scope="module")
def sets() -> Sets:
    return make_set(96), make_set(16, phase=0.5)


def make_net(*, dropout: float = 0.2, normalize_batch: bool = False) -> mx.gluon.HybridBlock:
    net = nn.HybridSequential(prefix="tiny_")
    with net.name_scope():
        net.add(nn.HybridLambda(lambda F, frames: frames * (1 / 127.5) - 1.0))
        net.add(nn.Conv2D(4, 5, 2))
        if normalize_batch:
            net.add(nn.BatchNorm())
        net.add(nn.ELU(), nn.Flatten(), nn.Dropout(dropout), nn.Dense(8), nn.ELU(), nn.Dense(1))
    return net


class Backboned(mx.gluon.HybridBlock):
    """A network that sees with trained eyes: a block ``features``, initialised, and a head behind it."""

    def __init__(self) -> None:
        super().__init__(prefix="backboned_")
        with self.name_scope():
            self.features = nn.HybridSequential(prefix="features_")
            self.features.add(nn.Conv2D(4, 5, 2), nn.BatchNorm(), nn.ELU())
            self.output = nn.HybridSequential(prefix="output_")
            self.output.add(nn.Flatten(), nn.Dropout(0.2), nn.Dense(8), nn.ELU(), nn.Dense(1))
        mx.random.seed(5)
        self.features.initialize(mx.init.Xavier())
        self.features(mx.nd.zeros((1, 3, 12, 24)))

    def hybrid_forward(self, F, frames):
        return self.output(self.features(frames * (1 / 127.5) - 1.0))

    def read_features(self) -> dict:
        return {name: parameter.data().asnumpy() for name, parameter in self.features.collect_params().items()}


def list_changed(before: dict, after: dict) -> list:
    return [name.split("_")[-1] for name in before if not np.array_equal(before[name], after[name])]


def make_net_that_answers_zero() -> mx.gluon.HybridBlock:
    net = make_net(dropout=0.0)
    net.initialize(mx.init.Normal(0.001))
    return net


def reverse(sets: Sets) -> Sets:
    """Turn the steering to validate on round: the more is learned from zero on, the worse."""
    train, validation = sets
    return train, SteeringDataset(validation.frames, -validation.steering)


def read_parameters(net: mx.gluon.HybridBlock) -> dict:
    return {name: value.data(value.list_ctx()[0]).asnumpy() for name, value in net.collect_params().items()}


def timeless(result: TrainingResult) -> list:
    """Return what a history holds apart from durations."""
    return [(each.epoch, each.train_rmse, each.validation_rmse, each.learning_rate) for each in result.history]


def assert_same(
    results: Sequence[TrainingResult], nets: Sequence[mx.gluon.HybridBlock], *, within: float = 0.0
) -> None:
    np.testing.assert_allclose(timeless(results[0]), timeless(results[1]), rtol=0, atol=within)
    theirs, ours = map(read_parameters, nets)
    assert list(theirs) == list(ours)
    for name in ours:
        np.testing.assert_allclose(theirs[name], ours[name], rtol=0, atol=within, err_msg=name)


def interrupt(net: mx.gluon.HybridBlock, sets: Sets, config: TrainingConfig, workdir: Path, *, after: int) -> None:
    """Train, and be interrupted when the epoch after ``after`` has been trained but not yet validated."""
    train, validation = sets
    frames = Frames(validation.frames["center"].frames, stop_at=after + 1)  # a validation is one batch, hence one read
    with pytest.raises(KeyboardInterrupt):
        fit(net, train, SteeringDataset({"center": frames}, validation.steering), config, workdir=workdir)
    assert (workdir / CHECKPOINT).is_file()


def test_a_small_drive_is_learned(sets):
    train, validation = sets
    result = fit(make_net(dropout=0.0), train, validation, replace(CONFIG, epochs=10))
    errors = [record.validation_rmse for record in result.history]
    baseline = float(np.sqrt(np.mean((validation.steering - train.steering.mean()) ** 2)))
    assert result.validation_rmse == min(errors) < 0.5 * baseline
    assert result.history[-1].train_rmse < 0.7 * result.history[0].train_rmse
    assert [record.epoch for record in result.history] == list(range(1, 11))
    assert (result.resumed_from, result.stopped_early, result.devices) == (0, False, ("cpu(0)",))
    assert result.images_per_second > 0 and result.seconds > 0


def test_two_runs_with_the_same_seed_are_equal_and_another_seed_differs(sets):
    nets = [make_net() for _ in range(3)]
    results = [fit(net, *sets, replace(CONFIG, epochs=2, seed=seed)) for net, seed in zip(nets, (3, 3, 4))]
    assert_same(results[:2], nets[:2])
    np.testing.assert_array_equal(results[0].labels, results[1].labels)
    assert timeless(results[0]) != timeless(results[2])


@pytest.mark.parametrize(
    ("changes", "normalize_batch"),
    [
        ({"optimizer": "adam"}, False),
        ({"optimizer": "sgd", "learning_rate": 0.002}, False),
        ({"optimizer": "adam", "device": "cpu:2"}, False),
        ({"optimizer": "adam"}, True),
    ],
    ids=["adam", "sgd", "two devices", "batch norm"],
)
def test_an_interrupted_run_goes_on_as_if_nothing_had_been(sets, tmp_path, changes, normalize_batch):
    config = replace(CONFIG, **changes)
    whole, broken, resumed = (make_net(normalize_batch=normalize_batch) for _ in range(3))
    expected = fit(whole, *sets, config)
    interrupt(broken, sets, config, tmp_path, after=2)
    result = fit(resumed, *sets, config, workdir=tmp_path)
    assert result.resumed_from == 2
    assert_same([expected, result], [whole, resumed])
    np.testing.assert_array_equal(expected.labels, result.labels)


def test_the_best_parameters_survive_an_interruption_even_if_no_later_epoch_is_better(sets, tmp_path):
    whole, broken, resumed = (make_net_that_answers_zero() for _ in range(3))
    expected = fit(whole, *reverse(sets), PLAIN)
    assert expected.best_epoch == 1
    interrupt(broken, reverse(sets), PLAIN, tmp_path, after=2)
    assert_same([expected, fit(resumed, *reverse(sets), PLAIN, workdir=tmp_path)], [whole, resumed])


def test_training_stops_without_progress_and_leaves_the_best_epoch_in_the_network(sets):
    train, validation = reverse(sets)
    net = make_net_that_answers_zero()
    result = fit(net, train, validation, replace(PLAIN, epochs=10, patience=2))
    assert result.stopped_early and len(result.history) == result.best_epoch + 2 < 10
    errors = predict(net, validation.read(range(len(validation)))) - validation.steering
    assert np.sqrt(np.mean(errors.astype(np.float64) ** 2)) == pytest.approx(result.validation_rmse, abs=1e-6)
    assert result.validation_rmse == min(record.validation_rmse for record in result.history)


def test_a_checkpoint_holds_arrays_only_and_is_gone_after_the_run(sets, tmp_path):
    interrupt(make_net(), sets, CONFIG, tmp_path, after=1)
    with np.load(tmp_path / CHECKPOINT, allow_pickle=False) as file:
        kinds = {file[name].dtype.kind for name in file.files}
        assert len(json.loads(file["header"].tobytes())["history"]) == 1
    assert kinds == {"f", "u"}
    fit(make_net(), *sets, CONFIG, workdir=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"history.csv", "loss_curve.png"}


def test_a_checkpoint_of_other_settings_or_other_data_is_refused_by_name(sets, tmp_path):
    train, validation = sets
    interrupt(make_net(), sets, CONFIG, tmp_path, after=1)
    with pytest.raises(ValueError, match=r"other settings \(learning_rate was 0.01, is 0.02\)"):
        fit(make_net(), *sets, replace(CONFIG, learning_rate=0.02), workdir=tmp_path)
    with pytest.raises(ValueError, match="training rows was 96, is 95"):
        shorter = SteeringDataset(train.frames, train.steering, range(95))
        fit(make_net(), shorter, validation, CONFIG, workdir=tmp_path)
    assert fit(make_net(), *sets, replace(CONFIG, cache_gb=1.0), workdir=tmp_path).resumed_from == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # numpy 1.19 trips over half an archive
@pytest.mark.parametrize("damage", ["cut", "empty", "text", "flipped bit"])
def test_a_damaged_checkpoint_is_refused(sets, tmp_path, damage):
    path = tmp_path / CHECKPOINT
    interrupt(make_net(), sets, CONFIG, tmp_path, after=1)
    data = path.read_bytes()
    flipped = data[:2000] + bytes([data[2000] ^ 1]) + data[2001:]
    path.write_bytes({"cut": data[:-500], "empty": b"", "text": b"hello", "flipped bit": flipped}[damage])
    with pytest.raises(ValueError, match=r"checkpoint.npz cannot be read .*remove it"):
        fit(make_net(), *sets, CONFIG, workdir=tmp_path)


def test_several_devices_compute_what_one_does(sets):
    nets = [make_net(dropout=0.0) for _ in range(2)]
    config = replace(CONFIG, optimizer="sgd", learning_rate=0.002, epochs=2)
    results = [fit(net, *sets, replace(config, device=device)) for net, device in zip(nets, ("cpu", "cpu:2"))]
    assert results[1].devices == ("cpu(0)", "cpu(1)")
    assert_same(results, nets, within=1e-5)


def test_a_batch_smaller_than_the_number_of_devices_is_refused(sets):
    with pytest.raises(ValueError, match="batch of 2 cannot be shared by 3 devices"):
        fit(make_net(), *sets, replace(CONFIG, batch_size=2, device="cpu:3"))


def test_the_compiled_network_learns_what_the_layers_do_one_by_one(sets):
    nets = [make_net(dropout=0.0) for _ in range(2)]
    results = [fit(net, *sets, replace(CONFIG, epochs=2, hybridize=value)) for net, value in zip(nets, (True, False))]
    assert_same(results, nets, within=1e-4)


def test_the_learning_rate_rises_and_then_falls_along_a_cosine(sets):
    history = fit(make_net(), *sets, replace(CONFIG, epochs=4, warmup_epochs=2.0)).history
    # Of each epoch, the rate of the third and last step, which begins after two thirds of it.
    rising = [0.01 * (2 / 3 + 1 / 6) / 2, 0.01 * (1 + 2 / 3 + 1 / 6) / 2]
    falling = [0.01 * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * done))) for done in (1 / 3, 5 / 6)]
    assert [record.learning_rate for record in history] == pytest.approx(rising + falling)


def test_a_constant_learning_rate_is_constant(sets):
    history = fit(make_net(), *sets, replace(CONFIG, epochs=2, warmup_epochs=0.0, schedule="constant")).history
    assert [record.learning_rate for record in history] == [0.01, 0.01]


def test_diverging_training_is_an_error_that_says_what_to_do(sets, tmp_path):
    config = replace(CONFIG, optimizer="sgd", learning_rate=1.0, warmup_epochs=0.0, epochs=20)
    with pytest.raises(ValueError, match=r"training diverged. Lower the learning rate \(1\)"):
        fit(make_net(), *sets, config, workdir=tmp_path)


def test_sets_that_are_preprocessed_differently_are_refused(sets):
    other = Frames(sets[1].frames["center"].frames)
    other.spec = replace(SPEC, color_space="yuv")
    with pytest.raises(ValueError, match=r"preprocessed as .*rgb.* validation frames as .*yuv"):
        fit(make_net(), sets[0], SteeringDataset({"center": other}, sets[1].steering), CONFIG)


def test_the_history_is_a_table_and_a_picture(sets, tmp_path):
    result = fit(make_net(), *sets, replace(CONFIG, epochs=2), workdir=tmp_path / "new" / "folder")
    with open(tmp_path / "new" / "folder" / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [each.name for each in fields(EpochRecord)]
    assert [{name: float(value) for name, value in row.items()} for row in rows] == [
        vars(each) for each in result.history
    ]
    assert (tmp_path / "new" / "folder" / "loss_curve.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_a_run_killed_between_its_last_checkpoint_and_its_last_line_still_writes_that_line(sets, tmp_path, monkeypatch):
    config = replace(CONFIG, epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr("robostig.training._write_history", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fit(make_net(), *sets, config, workdir=tmp_path)
    assert fit(make_net(), *sets, config, workdir=tmp_path).resumed_from == 1
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 2


def test_what_a_killed_run_had_half_written_is_cleared_away(sets, tmp_path):
    interrupt(make_net(), sets, CONFIG, tmp_path, after=1)
    (tmp_path / f"{CHECKPOINT}.123-abc.partial").write_bytes(b"PK")
    (tmp_path / "notes.partial").write_text("mine")
    fit(make_net(), *sets, CONFIG, workdir=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"history.csv", "loss_curve.png", "notes.partial"}


def test_each_epoch_is_told_of_when_its_checkpoint_is_there(sets, tmp_path):
    told = []

    def stop(record: EpochRecord) -> None:
        with np.load(tmp_path / CHECKPOINT) as file:
            told.append((record, json.loads(file["header"].tobytes())["history"]))
        if record.epoch == 2:
            raise RuntimeError("pruned")

    with pytest.raises(RuntimeError, match="pruned"):
        fit(make_net(), *sets, CONFIG, workdir=tmp_path, on_epoch=stop)
    assert [record.epoch for record, _ in told] == [1, 2]
    assert [saved[-1] for _, saved in told] == [vars(record) for record, _ in told]
    assert fit(make_net(), *sets, CONFIG, workdir=tmp_path).resumed_from == 2


def test_without_a_folder_nothing_is_written(sets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(make_net(), *sets, replace(CONFIG, epochs=1))
    assert not list(tmp_path.iterdir())


def test_the_checkpoint_may_go_elsewhere(sets, tmp_path):
    train, validation = sets
    stopped = SteeringDataset({"center": Frames(validation.frames["center"].frames, stop_at=2)}, validation.steering)
    with pytest.raises(KeyboardInterrupt):
        fit(make_net(), train, stopped, CONFIG, checkpoint_dir=tmp_path / "checkpoints")
    assert [path.name for path in tmp_path.rglob("*.*")] == [CHECKPOINT]
    result = fit(make_net(), *sets, CONFIG, workdir=tmp_path / "work", checkpoint_dir=tmp_path / "checkpoints")
    assert result.resumed_from == 1 and not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.parametrize("shapes_are_known", [True, False])
def test_a_network_that_is_initialised_already_keeps_its_parameters(sets, shapes_are_known):
    net = make_net()
    net.initialize(mx.init.Constant(0.01))
    if shapes_are_known:
        net(mx.nd.zeros((1, 3, 12, 24)))
    # A rate this small changes nothing, so what is left is what there was.
    fit(net, *sets, replace(CONFIG, epochs=1, learning_rate=1e-7, weight_decay=0.0, optimizer="sgd"))
    for name, value in read_parameters(net).items():
        np.testing.assert_allclose(value, 0.0 if name.endswith("bias") else 0.01, atol=1e-5, err_msg=name)


def test_progress_is_logged_in_fixed_point_for_expressions_to_read(sets, caplog):
    caplog.set_level(logging.INFO, "robostig.training")
    result = fit(
        make_net(), *sets, replace(CONFIG, epochs=2, learning_rate=1e-5, warmup_epochs=0.0, schedule="constant")
    )
    lines = [message for message in caplog.messages if message.startswith("epoch=")]
    assert len(lines) == 2
    for line, record in zip(lines, result.history):
        values = dict(re.findall(r"(\w+)=([0-9\.]+)(?= |$)", line))
        assert list(values) == [each.name for each in fields(EpochRecord)]
        assert float(values["validation_rmse"]) == pytest.approx(record.validation_rmse, abs=1e-5)
        assert float(values["learning_rate"]) == 1e-5
    assert float(re.search(r"validation_rmse=([0-9\.]+)", caplog.messages[-1]).group(1)) > 0


@pytest.mark.parametrize("hybridize", [True, False])
def test_a_frozen_backbone_keeps_every_bit_until_it_is_thawed(sets, hybridize):
    net = Backboned()
    before, seen = net.read_features(), []
    config = replace(CONFIG, epochs=4, freeze_epochs=2, hybridize=hybridize)
    fit(net, *sets, config, on_epoch=lambda _: seen.append((net.read_features(), read_parameters(net.output))))
    everything = ["weight", "bias", "gamma", "beta", "mean", "var"]
    assert [list_changed(before, features) for features, _ in seen] == [[], [], everything, everything]
    heads = [head for _, head in seen]
    assert all(list_changed(one, other) for one, other in zip(heads, heads[1:]))
    requests = [parameter.grad_req for parameter in net.features.collect_params().values()]
    assert requests == ["write"] * 4 + ["null"] * 2


@pytest.mark.parametrize("device", ["cpu", "cpu:2"])
def test_what_is_kept_is_the_running_average_of_the_parameters(sets, monkeypatch, device):
    net, steps, update = make_net(), [], mx.gluon.Trainer.step
    net.initialize()
    net(mx.nd.zeros((1, 3, 12, 24)))
    expected = read_parameters(net)

    def step(trainer, batch_size):
        update(trainer, batch_size)
        steps.append(read_parameters(net))

    monkeypatch.setattr(mx.gluon.Trainer, "step", step)
    result = fit(net, *sets, replace(CONFIG, epochs=3, averaging=0.15, device=device))
    assert len(steps) == 9 and result.best_epoch > 1  # after a validation, for which oneDNN lays weights out anew
    for number, parameters in enumerate(steps[: 3 * result.best_epoch], 1):
        share = 1.0 - min(0.15, number / (number + 9.0))  # at first it follows more quickly
        expected = {name: (1 - share) * expected[name] + share * value for name, value in parameters.items()}
    for name, value in read_parameters(net).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-7)


class OwnForward(mx.gluon.HybridBlock):
    """A network that hybridizes by parts, since it asks its input for its shape."""

    def __init__(self) -> None:
        super().__init__(prefix="own_")
        with self.name_scope():
            self.large, self.last = nn.Dense(8), nn.Dense(1)

    def forward(self, frames):
        return self.last(self.large(frames.reshape((frames.shape[0], -1)) / 127.5 - 1))


class Choosing(mx.gluon.HybridBlock):
    """A network with indices among its parameters, which are no floats."""

    def __init__(self) -> None:
        super().__init__(prefix="choosing_")
        with self.name_scope():
            self.index = self.params.get("index", shape=(2,), dtype="int32", init="ones", grad_req="null")
            self.rows, self.last = nn.Dense(8), nn.Dense(1)

    def hybrid_forward(self, F, frames, index):
        return self.last(self.rows(F.take(frames / 127.5 - 1, index, axis=2)))


@pytest.mark.parametrize("make", [OwnForward, Choosing])
def test_a_network_of_whatever_kind_learns(sets, make):
    result = fit(make(), *sets, replace(PLAIN, epochs=3))
    assert result.history[-1].train_rmse < result.history[0].train_rmse


@pytest.mark.parametrize("freeze_epochs", [3, 100])
def test_what_is_frozen_throughout_is_kept_to_the_bit_and_thawed_in_the_end(sets, freeze_epochs):
    net = Backboned()
    before = net.read_features()
    fit(net, *sets, replace(CONFIG, epochs=3, freeze_epochs=freeze_epochs))  # the running average is what is kept
    assert not list_changed(before, net.read_features())
    fit(net, *sets, replace(CONFIG, epochs=1))
    assert len(list_changed(before, net.read_features())) == len(before)


@pytest.mark.parametrize(
    ("changes", "after"),
    [({}, 1), ({}, 2), ({}, 3), ({"optimizer": "sgd", "learning_rate": 0.002}, 2), ({"device": "cpu:2"}, 2)],
    ids=["frozen", "about to thaw", "thawed", "sgd", "two devices"],
)
def test_an_interrupted_run_knows_what_was_frozen(sets, tmp_path, changes, after):
    config = replace(CONFIG, freeze_epochs=2, **changes)
    whole, broken, resumed = (Backboned() for _ in range(3))
    expected = fit(whole, *sets, config)
    interrupt(broken, sets, config, tmp_path, after=after)
    assert [parameter.grad_req for parameter in broken.features.collect_params().values()].count("write") == 4
    result = fit(resumed, *sets, config, workdir=tmp_path)
    assert result.resumed_from == after
    assert_same([expected, result], [whole, resumed])


def test_freezing_what_cannot_be_frozen_is_refused_with_what_to_do(sets):
    config = replace(CONFIG, freeze_epochs=2)
    with pytest.raises(ValueError, match=r"HybridSequential has no backbone that could be frozen, .*freeze_epochs=0"):
        fit(make_net(), *sets, config)
    net = Backboned()
    net.features = make_net()
    with pytest.raises(ValueError, match=r"freeze_epochs=2 would hold 6 arrays of random weights: .*pretrained=true"):
        fit(net, *sets, config)
    only_features = nn.HybridSequential()
    only_features.features = Backboned()
    only_features.features.output.initialize()
    with pytest.raises(ValueError, match="no backbone that could be frozen"):
        fit(only_features, *sets, config)


def test_a_checkpoint_from_before_there_was_a_setting_is_continued(sets, tmp_path):
    interrupt(make_net(), sets, CONFIG, tmp_path, after=1)
    with np.load(tmp_path / CHECKPOINT) as file:
        arrays = dict(file)
    header = json.loads(arrays["header"].tobytes())
    del header["settings"]["freeze_epochs"], header["settings"]["pretrained"]
    np.savez(tmp_path / CHECKPOINT, **{**arrays, "header": np.frombuffer(json.dumps(header).encode(), np.uint8)})
    with pytest.raises(ValueError, match="pretrained was False, is True"):
        fit(make_net(), *sets, replace(CONFIG, pretrained=True), workdir=tmp_path)
    assert fit(make_net(), *sets, CONFIG, workdir=tmp_path).resumed_from == 1


def test_a_history_is_read_as_it_was_written(sets, tmp_path):
    result = fit(make_net(), *sets, replace(CONFIG, epochs=2), workdir=tmp_path)
    assert read_history(tmp_path / "history.csv") == result.history
    (tmp_path / "other.csv").write_text("epoch,colour\n1,red\n")
    with pytest.raises(ValueError, match=r"other\.csv is no history of a training"):
        read_history(tmp_path / "other.csv")


def test_adam_has_its_means_where_the_weights_lie_within_a_page(sets, monkeypatch):
    steps = []

    def step(self, index, weight, grad, state):
        steps.append([view_memory(array).ctypes.data % mmap.PAGESIZE for array in (weight, *state)])
        update(self, index, weight, grad, state)

    update = mx.optimizer.Adam.update
    monkeypatch.setattr(mx.optimizer.Adam, "update", step)
    fit(make_net(), *sets, replace(CONFIG, epochs=1))
    assert steps and all(len(set(places)) == 1 for places in steps)
