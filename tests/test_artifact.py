from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

import robostig
from robostig import artifact, pilot, serving
from robostig.artifact import (
    WEIGHTS,
    add_code,
    add_facts,
    find_artifact,
    load_artifact,
    load_parameters,
    pack,
    read_facts,
    save_artifact,
)
from robostig.backend import mx
from robostig.card import MARK, make_card
from robostig.preprocessing import InputSpec

nn = mx.gluon.nn

SPEC = InputSpec(8, 16, crop_top=0.25, color_space="yuv")
DIGESTED = {"model-symbol.json", "model-0000.params", "model-shapes.json"}
FILES = {*DIGESTED, "README.md", "robostig.json"}
FRAMES = np.random.default_rng(0).integers(0, 256, (3, 3, 8, 16)).astype(np.float32)


def make_net(seed: int = 0, *, initialize: bool = True) -> mx.gluon.HybridBlock:
    net = nn.HybridSequential(prefix="tiny_")
    with net.name_scope():
        net.add(nn.HybridLambda(lambda F, frames: frames * (1 / 127.5) - 1.0))
        net.add(nn.Conv2D(4, 3, 2), nn.ELU(), nn.Flatten(), nn.Dropout(0.5), nn.Dense(1))
    if initialize:
        mx.random.seed(seed)
        net.initialize(mx.init.Xavier())
        net.hybridize()
    return net


def answer(net: mx.gluon.Block) -> np.ndarray:
    return net(mx.nd.array(FRAMES)).asnumpy()


@pytest.fixture
def saved(tmp_path) -> Path:
    return save_artifact(tmp_path / "deep" / "tiny", make_net(), SPEC, {"model": "tiny", "scores": {"rmse": 0.1}})


def change_facts(folder: Path, **changes) -> None:
    path = folder / "robostig.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("hybridize", [True, False])
def test_what_is_loaded_answers_as_what_was_saved(tmp_path, hybridize):
    net = make_net()
    net.hybridize(hybridize)
    loaded = load_artifact(save_artifact(tmp_path, net, SPEC, {"model": "tiny"}))
    np.testing.assert_allclose(answer(loaded.net), answer(net), atol=1e-6)
    assert (loaded.model, loaded.spec, loaded.folder) == ("tiny", SPEC, tmp_path)


def test_the_folder_holds_five_files_and_the_shape_that_the_model_server_wants(saved):
    assert {path.name for path in saved.iterdir()} == FILES
    assert json.loads((saved / "model-shapes.json").read_text()) == [{"name": "data", "shape": [1, 3, 8, 16]}]


def test_the_facts_say_what_the_model_is_and_where_it_comes_from(saved):
    facts = read_facts(saved)
    assert (facts["model"], facts["scores"], facts["format"]) == ("tiny", {"rmse": 0.1}, 1)
    assert InputSpec.from_dict(facts["input"]) == SPEC
    assert facts["parameters"] == 4 * 3 * 9 + 4 + 4 * 3 * 7 + 1
    assert facts["versions"]["robostig"] == robostig.__version__ and facts["versions"]["mxnet"] == mx.__version__
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", facts["created"])
    digests = {name: hashlib.sha256((saved / name).read_bytes()).hexdigest() for name in DIGESTED}
    assert facts["files"] == digests


@pytest.mark.parametrize("name", sorted(DIGESTED))
@pytest.mark.parametrize("fault", ["missing", "cut", "of another model"])
def test_a_file_that_is_not_the_one_saved_is_refused(saved, tmp_path, name, fault):
    path = saved / name
    if fault == "missing":
        path.unlink()
    elif fault == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        other = save_artifact(tmp_path / "other", nn_of_another_shape(), InputSpec(9, 17), {"model": "other"})
        shutil.copy(other / name, path)
    with pytest.raises(ValueError, match=rf"artifact in .*tiny is damaged: {re.escape(name)} is not"):
        load_artifact(saved)


def nn_of_another_shape() -> mx.gluon.HybridBlock:
    net = nn.HybridSequential(prefix="other_")
    with net.name_scope():
        net.add(nn.Dense(1))
    net.initialize()
    return net


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"format": 1}', '{"format": 1, "model": "x", "files": {}}', "\udcff"]
)
def test_damaged_facts_are_refused(saved, text):
    (saved / "robostig.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"robostig.json is damaged"):
        load_artifact(saved)


@pytest.mark.parametrize("files", [[], {}, {"model-symbol.json": ""}])
def test_facts_that_do_not_name_the_files_are_refused(saved, files):
    change_facts(saved, files=files)
    with pytest.raises(ValueError, match="is damaged"):
        load_artifact(saved)


@pytest.mark.parametrize("input", ["66x200", {"height": 66}, {**SPEC.to_dict(), "height": 0}])
def test_facts_with_an_input_that_is_none_are_refused(saved, input):
    change_facts(saved, input=input)
    with pytest.raises(ValueError, match=r"robostig.json is damaged \(.*\); copy the artifact again"):
        load_artifact(saved)


def test_facts_of_a_later_format_are_refused(saved):
    change_facts(saved, files=None, format=2)
    with pytest.raises(ValueError, match=r"is of format 2, RoboStig .* reads format 1"):
        load_artifact(saved)
    change_facts(saved, format=2)
    with pytest.raises(ValueError, match=r"is of format 2, RoboStig .* reads format 1"):
        load_artifact(saved)


def test_a_place_without_an_artifact_is_named(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no trained model in .*nowhere: .*there is no such folder"):
        load_artifact(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="it is empty"):
        load_artifact(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="it holds tiny"):
        load_artifact(saved.parent)
    with pytest.raises(FileNotFoundError, match="is a file; an artifact is a folder"):
        load_artifact(saved / "model-symbol.json")


def test_saving_again_replaces_the_model_and_leaves_other_files_alone(saved):
    (saved / "notes.txt").write_text("mine")
    net = make_net(seed=1)
    save_artifact(saved, net, SPEC, {"model": "second"})
    loaded = load_artifact(saved)
    np.testing.assert_allclose(answer(loaded.net), answer(net), atol=1e-6)
    assert np.abs(answer(loaded.net) - answer(make_net())).max() > 1e-3
    assert loaded.model == "second" and (saved / "notes.txt").read_text() == "mine"
    assert {path.name for path in saved.iterdir()} == FILES | {"notes.txt"}


@pytest.mark.parametrize("fault", ["not initialised", "facts that are no JSON", "facts with NaN"])
def test_saving_that_fails_leaves_the_earlier_model_as_it_was(saved, fault):
    facts = {"facts that are no JSON": {"x": object()}, "facts with NaN": {"x": float("nan")}}.get(fault, {})
    with pytest.raises((RuntimeError, TypeError, ValueError)):
        save_artifact(saved, make_net(1, initialize=fault != "not initialised"), SPEC, {"model": "second", **facts})
    assert {path.name for path in saved.iterdir()} == FILES
    np.testing.assert_allclose(answer(load_artifact(saved).net), answer(make_net()), atol=1e-6)


@pytest.mark.parametrize("replaced", [0, 1, 2, 3, 4])
def test_a_save_that_is_cut_short_while_files_are_put_in_place_leaves_no_mixture(saved, monkeypatch, replaced):
    calls = iter([os.replace] * replaced)

    def replace(source: Path, target: Path) -> None:
        next(calls)(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(StopIteration):
            save_artifact(saved, make_net(1), SPEC, {"model": "second"})
    with pytest.raises(FileNotFoundError, match="no trained model"):
        load_artifact(saved)


def test_a_saved_model_has_a_card_of_its_facts_and_what_is_added_later_is_in_both(saved):
    card = saved / "README.md"
    assert card.read_text() == make_card(read_facts(saved)) and "| rmse | 0.1 |" in card.read_text()
    answers = answer(load_artifact(saved).net)
    add_facts(saved, {"scores": {"rmse": 0.07}, "notes": "driven at night"})
    assert card.read_text() == make_card(read_facts(saved))
    assert "| rmse | 0.07 |" in card.read_text() and "| notes | driven at night |" in card.read_text()
    assert (read_facts(saved)["notes"], {path.name for path in saved.iterdir()}) == ("driven at night", FILES)
    np.testing.assert_array_equal(answer(load_artifact(saved).net), answers)


def test_facts_that_cannot_be_added_leave_those_that_there_are(saved):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(ValueError, match="not JSON compliant"):
        add_facts(saved, {"scores": {"rmse": float("nan")}})
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    with pytest.raises(FileNotFoundError, match="no trained model"):
        add_facts(saved.parent, {"notes": "x"})


@pytest.mark.parametrize("text", ["# My project\n", "", "\udcff"])
def test_a_readme_of_somebody_else_is_left_alone_and_a_warning_says_so(tmp_path, caplog, text):
    readme = tmp_path / "README.md"
    readme.write_bytes(text.encode("utf-8", "surrogateescape"))
    save_artifact(tmp_path, make_net(), SPEC, {"model": "tiny"})
    add_facts(tmp_path, {"notes": "x"})
    assert readme.read_bytes() == text.encode("utf-8", "surrogateescape")
    assert caplog.text.count("README.md was not written by RoboStig, and is left alone") == 2
    assert load_artifact(tmp_path).facts["notes"] == "x"


def test_a_card_can_be_made_one_s_own(saved):
    card = saved / "README.md"
    card.write_text(card.read_text().replace(MARK, "") + "It was raining.\n")
    save_artifact(saved, make_net(1), SPEC, {"model": "second"})
    assert card.read_text().endswith("It was raining.\n") and load_artifact(saved).model == "second"
    card.unlink()
    add_facts(saved, {})
    assert MARK in card.read_text()
    card.unlink()
    assert load_artifact(saved).model == "second"  # without it, it is no less an artifact


def test_a_name_of_packaged_weights_is_an_artifact_unless_there_is_such_a_folder(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_artifact("nvidia") == WEIGHTS / "nvidia" == load_artifact("nvidia").folder
    assert read_facts("nvidia")["model"] == "nvidia"
    shutil.copytree(saved, tmp_path / "nvidia")
    assert find_artifact("nvidia") == Path("nvidia") and load_artifact("nvidia").model == "tiny"
    assert find_artifact(saved) == saved
    shutil.rmtree(tmp_path / "nvidia")
    pack("nvidia", tmp_path / "model.tar.gz")
    with tarfile.open(tmp_path / "model.tar.gz") as archive:
        assert not [name for name in archive.getnames() if "weights" in name] and "README.md" in archive.getnames()


@pytest.mark.parametrize("name", ["nvidla", "out/nvidia", "../nvidia", "README.md", "/nowhere/nvidia"])
def test_what_is_neither_a_folder_nor_packaged_weights_is_refused_with_both_possibilities(name, tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    with pytest.raises(FileNotFoundError) as caught:
        find_artifact(name)
    assert f"no trained model in {name}: there is no such folder, nor do weights of that name come" in str(caught.value)
    assert "(there are: nvidia)" in str(caught.value)


def test_parameters_are_put_into_a_network_that_was_built_anew(saved):
    net = make_net(initialize=False)
    load_parameters(net, saved)
    np.testing.assert_allclose(answer(net), answer(make_net()), atol=1e-6)


def test_parameters_of_another_network_or_damaged_ones_are_refused(saved):
    with pytest.raises(ValueError, match=r"the parameters in .*tiny do not fit the network other: Parameter"):
        load_parameters(nn_of_another_shape(), saved)
    (saved / "model-0000.params").write_bytes(b"other")
    with pytest.raises(ValueError, match="is damaged: model-0000"):
        load_parameters(make_net(initialize=False), saved)


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


@pytest.mark.parametrize("kind", ["pickle", "array of objects", "archive"])
def test_nothing_is_ever_unpickled(saved, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = saved / "model-0000.params"
    with open(path, "wb") as file:
        if kind == "pickle":
            pickle.dump(Bomb(), file)
        else:
            {"array of objects": np.save, "archive": np.savez}[kind](file, np.array([Bomb()], object))
    files = {**read_facts(saved)["files"], path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    change_facts(saved, files=files)
    with pytest.raises(ValueError, match=r"artifact in .* cannot be read by MXNet"):
        load_artifact(saved)
    assert not Path("exploded").exists()


@pytest.mark.parametrize("module", [artifact, pilot, serving])
def test_no_module_that_loads_models_knows_pickle(module):
    assert not re.search(
        r"(import|from) (pickle|dill|joblib|marshal)|allow_pickle=True", Path(module.__file__).read_text()
    )


def test_facts_without_a_model_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="the facts need a 'model'"):
        save_artifact(tmp_path / "artifact", make_net(1), SPEC, {"mode": "x"})
    assert not (tmp_path / "artifact").exists()


def list_files(folder: Path) -> set:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_code_beside_a_model_is_the_whole_package_and_the_scripts_that_the_server_looks_for(saved):
    (saved / "code").mkdir()
    (saved / "code" / "stale.py").write_text("")
    assert add_code(saved) == saved / "code"
    package = Path(robostig.__file__).parent
    packaged = {name for name in list_files(package) if "__pycache__" not in name and not name.startswith("weights/")}
    assert packaged < list_files(package)  # a served model has weights of its own
    expected = {f"robostig/{name}" for name in packaged}
    assert list_files(saved / "code") == {"entry_point.py", "inference.py", *expected}
    assert {path.name for path in saved.iterdir()} == {*FILES, "code"}  # and nothing unfinished
    for script in ("entry_point", "inference"):
        lines = f"import {script} as script; print(script.model_fn.__code__.co_filename)"
        done = subprocess.run(
            [sys.executable, "-c", lines], cwd=str(saved / "code"), capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == str(saved / "code" / "robostig" / "serving.py")


def test_a_model_can_be_saved_with_its_code_and_is_no_artifact_until_that_is_there(tmp_path, monkeypatch):
    save_artifact(tmp_path / "a", make_net(), SPEC, {"model": "tiny"}, with_code=True)
    assert (tmp_path / "a" / "code" / "robostig" / "serving.py").is_file()
    assert load_artifact(tmp_path / "a").model == "tiny"

    def fail(folder):
        raise OSError("the disk is full")

    monkeypatch.setattr(artifact, "add_code", fail)
    with pytest.raises(OSError, match="the disk is full"):
        save_artifact(tmp_path / "b", make_net(), SPEC, {"model": "tiny"}, with_code=True)
    with pytest.raises(FileNotFoundError, match="no trained model"):
        load_artifact(tmp_path / "b")


def test_a_packed_model_is_the_artifact_and_its_code_and_the_same_bytes_each_time(saved, tmp_path):
    (saved / "training").mkdir()
    (saved / "training" / "history.csv").write_text("epoch\n")
    first, second = pack(saved, tmp_path / "a.tar.gz"), pack(saved, tmp_path / "b.tar.gz")
    assert first.read_bytes() == second.read_bytes()
    with tarfile.open(first) as archive:
        assert {member.uname for member in archive.getmembers()} == {""}
        archive.extractall(tmp_path / "unpacked")
    assert list_files(tmp_path / "unpacked") == list_files(saved) - {"training/history.csv"} | {
        f"code/{name}" for name in list_files(add_code(tmp_path / "code"))
    }
    np.testing.assert_array_equal(answer(load_artifact(tmp_path / "unpacked").net), answer(load_artifact(saved).net))


def test_a_damaged_model_is_not_packed(saved, tmp_path):
    (saved / "model-0000.params").write_bytes(b"other")
    with pytest.raises(ValueError, match="is damaged: model-0000"):
        pack(saved, tmp_path / "model.tar.gz")
    assert not (tmp_path / "model.tar.gz").exists()


@pytest.mark.parametrize("version", [10900, 10901])
def test_a_graph_of_another_1_9_is_read_without_a_word(saved, capfd, version):
    graph = json.loads((saved / "model-symbol.json").read_text())
    graph["attrs"]["mxnet_version"] = ["int", version]
    (saved / "model-symbol.json").write_text(json.dumps(graph))
    facts = json.loads((saved / "robostig.json").read_text())
    digest = hashlib.sha256((saved / "model-symbol.json").read_bytes()).hexdigest()
    change_facts(saved, files={**facts["files"], "model-symbol.json": digest})
    assert answer(load_artifact(saved).net).shape == (len(FRAMES), 1)
    assert "previous version" not in capfd.readouterr().err
