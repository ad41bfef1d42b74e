"""What comes with the package: that it is whole, drives, and is what its facts and its card say."""

from __future__ import annotations

import re

import numpy as np
import pytest

from robostig.artifact import CARD, FACTS, WEIGHTS, list_files, load_artifact, read_facts
from robostig.card import make_card
from robostig.closed_loop import evaluate_closed_loop
from robostig.config import TrainingConfig
from robostig.models import get_model, get_spec
from robostig.pilot import Pilot
from robostig.pipeline import read_recording, train_model
from robostig.simulation import parse_tracks

NAMES = sorted(path.name for path in WEIGHTS.iterdir() if path.is_dir())
FRAMES = np.random.default_rng(0).integers(0, 256, (5, 66, 200, 3)).astype(np.uint8)

pytestmark = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Be where there is no folder of a model's name."""
    monkeypatch.chdir(tmp_path)


def test_they_are_an_artifact_of_the_model_that_they_are_named_after(name):
    artifact = load_artifact(name)  # the digests are right
    assert (artifact.model, artifact.spec) == (name, get_spec(name).input)
    assert artifact.folder == WEIGHTS / name and artifact.facts["parameters"] == get_spec(name).parameters
    assert {path.name for path in artifact.folder.iterdir()} == set(list_files(name))
    assert sum(path.stat().st_size for path in artifact.folder.iterdir()) < 2e6  # all who install RoboStig carry it


def test_where_they_come_from_and_under_which_licence_is_noted(name):
    facts = read_facts(name)
    assert facts["data"]["origin"].startswith("the built-in track") and facts["data"]["licence"].startswith(
        "Apache-2.0"
    )
    assert facts["config"]["seed"] == 0 and TrainingConfig.from_dict(facts["config"]).model == name
    texts = [(WEIGHTS / name / file).read_text() for file in (CARD, FACTS)]
    assert not [text for text in texts if re.search(r"(?<![\w.:/])/(home|root|tmp|work|usr|var|opt|Users)\b", text)]


def test_the_card_is_what_the_facts_give(name):
    card = (WEIGHTS / name / CARD).read_text(encoding="utf-8")
    assert card == make_card(read_facts(name)), f"robostig.artifact.add_facts({name!r}, {{}}) makes it anew"


def test_a_pretrained_model_answers_as_they_do(name):
    net = get_model(name, pretrained=True)
    np.testing.assert_allclose(
        Pilot(net, get_spec(name).input).predict(FRAMES), Pilot.load(name).predict(FRAMES), atol=1e-6
    )
    assert get_spec(name).pretrained == "the built-in track"


def test_they_drive_a_road_that_they_have_not_seen_as_well_as_is_noted(name):
    noted = {(each["track"], each["direction"]): each for each in read_facts(name)["scores"]["closed_loop"]["tracks"]}
    driven = evaluate_closed_loop(Pilot.load(name), parse_tracks("lake:101")).scores
    assert driven["autonomy"] > 95.0 and driven["interventions"] == noted["lake:101", "forward"]["interventions"]
    # Twelve roads were driven at once then, one is now, perhaps by another MXNet: last bits of answers move the car.
    for score in ("lateral_rmse_m", "lateral_max_m"):
        assert driven[score] == pytest.approx(noted["lake:101", "forward"][score], abs=0.01)
    assert driven["distance_m"] == pytest.approx(noted["lake:101", "forward"]["distance_m"], abs=0.05)


def test_training_begins_with_them(name, make_recording, tmp_path):
    """With a learning rate near nothing, they are what comes out; without them, it is something else."""
    answers = {}
    for pretrained in (False, True):
        config = TrainingConfig(
            name,
            pretrained=pretrained,
            epochs=1,
            learning_rate=1e-7,
            batch_size=16,
            gap_s=0.2,
            side_cameras=0.0,
            device="cpu",
        )
        out = tmp_path / str(pretrained)
        train_model(config, read_recording(make_recording(40, name=f"drive{pretrained}"), config), out)
        answers[pretrained] = Pilot.load(out).predict(FRAMES)
        assert read_facts(out)["data"]["pretrained_on"] == ("the built-in track" if pretrained else None)
    noted = Pilot.load(name).predict(FRAMES)
    np.testing.assert_allclose(answers[True], noted, atol=1e-4)
    assert np.abs(answers[False] - noted).max() > 1e-2
