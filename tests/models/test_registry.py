from __future__ import annotations

import functools
import shutil

import pytest

from robostig.artifact import WEIGHTS, load_parameters
from robostig.backend import mx
from robostig.models import get_model, get_spec, list_models, register, registry
from robostig.models.nvidia import PilotNet
from robostig.preprocessing import InputSpec

KNOWN = {"input": InputSpec(8, 16), "parameters": 385, "reference": "Pomerleau 1989"}


class Linear(mx.gluon.nn.HybridSequential):
    """One layer, to show how little a model needs.

    And a second paragraph.
    """

    def __init__(self, units: int = 1) -> None:
        super().__init__(prefix="linear_")
        with self.name_scope():
            self.add(mx.gluon.nn.Dense(units))


@pytest.fixture(autouse=True)
def _registry_of_its_own(monkeypatch):
    monkeypatch.setattr(registry, "_MODELS", dict(registry._MODELS))


def test_both_models_are_there():
    assert {"nvidia", "comma"} <= set(list_models())


def test_a_registered_model_is_listed_described_and_built():
    assert register("linear", **KNOWN)(Linear) is Linear
    assert "linear" in list_models()
    spec = get_spec("linear")
    assert (spec.name, spec.input, spec.parameters, spec.reference) == ("linear", *KNOWN.values())
    assert spec.summary == "One layer, to show how little a model needs."
    assert type(get_model("linear")) is Linear


def test_arguments_reach_the_model():
    register("linear", **KNOWN)(Linear)
    assert get_model("linear", units=3)[0]._units == 3
    with pytest.raises(TypeError):
        get_model("linear", colour="red")


def test_a_function_can_be_registered_too():
    @register("wide", **KNOWN)
    def build_wide():
        """A wider one."""
        return Linear(units=7)

    assert get_model("wide")[0]._units == 7 and get_spec("wide").summary == "A wider one."


def test_each_call_builds_a_new_model():
    assert get_model("nvidia") is not get_model("nvidia")


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match=r"'nvidia' is registered already, by robostig\.models\.nvidia\.PilotNet"):
        register("nvidia", **KNOWN)(Linear)
    assert get_spec("nvidia").parameters == 252_219


def test_a_cell_of_a_notebook_can_be_run_again():
    first, again, other = (type(name, (Linear,), {"__doc__": "One layer."}) for name in ("Mine", "Mine", "Other"))
    for each in (first, again, other):
        each.__module__ = "__main__"
    register("mine", **KNOWN)(first)
    register("mine", **{**KNOWN, "parameters": 386})(again)
    assert type(get_model("mine")) is again and get_spec("mine").parameters == 386
    with pytest.raises(ValueError, match=r"'mine' is registered already, by __main__\.Mine"):
        register("mine", **KNOWN)(other)


def test_a_model_without_a_docstring_is_refused():
    with pytest.raises(ValueError, match="has no docstring"):
        register("linear", **KNOWN)(lambda: Linear())
    assert "linear" not in list_models()


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", ["comma", "linear", "nvidia"]),
        ("n*", ["nvidia"]),
        ("*i*", ["linear", "nvidia"]),
        ("comma", ["comma"]),
        ("x*", []),
    ],
)
def test_names_are_listed_by_pattern_and_in_order(pattern, expected):
    register("linear", **KNOWN)(Linear)
    assert [name for name in list_models(pattern) if name in ("comma", "linear", "nvidia")] == expected


@pytest.mark.parametrize("ask", [get_model, get_spec])
@pytest.mark.parametrize(
    ("name", "hint"), [("nvidea", "did you mean 'nvidia'"), ("Comma", "did you mean 'comma'"), ("coma", "'comma'")]
)
def test_an_unknown_name_is_refused_with_the_nearest(ask, name, hint):
    with pytest.raises(ValueError, match=f"no model is named '{name}' .*{hint}.*; there are: .*comma, .*nvidia"):
        ask(name)


def test_a_name_near_nothing_is_refused_with_all():
    with pytest.raises(ValueError, match="no model is named 'xyz'; there are: comma"):
        get_model("xyz")


def test_trained_weights_are_loaded_on_request_only():
    def load(net):
        net.initialize(mx.init.Constant(0.5))

    register("linear", **KNOWN, pretrained=load, pretrained_on="a parking lot")(Linear)
    assert get_spec("linear").pretrained == get_spec("linear", pretrained=True).pretrained == "a parking lot"
    answer = get_model("linear", pretrained=True, units=2)(mx.nd.ones((1, 3)))
    assert answer.asnumpy().tolist() == [[1.5, 1.5]]
    with pytest.raises(RuntimeError, match="has not been initialized"):
        get_model("linear")(mx.nd.ones((1, 3)))


def test_weights_that_are_damaged_and_weights_that_are_not_there_are_told_apart(tmp_path):
    folder = tmp_path / "weights"
    load = functools.partial(load_parameters, folder=folder)
    register("mine", **KNOWN, pretrained=load, pretrained_on="a parking lot")(PilotNet)
    with pytest.raises(OSError, match=f"no trained model in {folder}: there is no such folder"):
        get_model("mine", pretrained=True)
    shutil.copytree(WEIGHTS / "nvidia", folder)
    assert get_model("mine", pretrained=True)(mx.nd.zeros((1, 3, 66, 200))).shape == (1, 1)
    with open(folder / "model-0000.params", "r+b") as file:
        file.truncate(1000)
    with pytest.raises(ValueError, match=f"the artifact in {folder} is damaged: model-0000.params .* copy it again"):
        get_model("mine", pretrained=True)


@pytest.mark.parametrize("ask", [get_model, get_spec])
def test_a_model_without_trained_weights_names_those_that_have_some(ask):
    register("linear", **KNOWN, pretrained=lambda net: None, pretrained_on="a parking lot")(Linear)
    with pytest.raises(ValueError, match="no trained weights of 'comma'; models that have some: linear, mobilenet_v2"):
        ask("comma", pretrained=True)
    assert get_spec("comma").pretrained == ""


@pytest.mark.parametrize("given", [{"pretrained": lambda net: None}, {"pretrained_on": "a parking lot"}])
def test_weights_are_registered_with_what_they_were_trained_on(given):
    with pytest.raises(ValueError, match=r"linear: weights \(pretrained\) and .* go together"):
        register("linear", **KNOWN, **given)(Linear)
    assert "linear" not in list_models()
