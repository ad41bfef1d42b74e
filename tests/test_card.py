from __future__ import annotations

import argparse
import re
import shlex

import pytest

from robostig.card import MARK, make_card
from robostig.config import TrainingConfig

OPEN_LOOP = {
    "frames": 2126,
    "rmse": 0.04,
    "mae": 0.03,
    "rmse_mean_baseline": 0.1,
    "rmse_to_mean_baseline": 0.4,
    "correlation": 0.93,
}
DRIVEN = {"autonomy": 97.5, "interventions": 2, "lateral_rmse_m": 0.25, "lateral_max_m": 1.02}
FACTS = {
    "format": 1,
    "model": "nvidia",
    "summary": "NVIDIA's PilotNet: five convolutions.",
    "reference": "Bojarski et al. 2016, arXiv:1604.07316",
    "config": TrainingConfig(epochs=7, seed=3, flip=0.0).to_dict(),
    "data": {
        "kind": "driving log",
        "folder": "my drive",
        "fingerprint": "abc",
        "validation_fingerprint": "abc",
        "rows": 10632,
        "rows_left_out": 3,
        "split": "every 5th stretch held out",
        "licence": "LICENSE: MIT License",
        "training_mean": -0.0039,
    },
    "scores": {
        "open_loop": OPEN_LOOP,
        "closed_loop": {
            **DRIVEN,
            "distance_m": 8382.0,
            "roads": "2 roads that none has seen",
            "tracks": [
                {"track": "lake:101", "direction": "forward", **DRIVEN, "interventions": 0},
                {"track": "dirt:101", "direction": "backward", **DRIVEN},
            ],
        },
        "latency_ms": {"p50": 0.91, "p99": 2.0},
        "training": {"seconds": 46.4, "epochs": 7, "best_epoch": 6},
        "parameters": 252219,
    },
    "elsewhere": {
        "the recording lake": {"open_loop": {**OPEN_LOOP, "rmse_to_mean_baseline": 2.36}, "rows": "all 2,459 rows"},
        "the recording home": {"open_loop": OPEN_LOOP, "rows": "all 99 rows"},
        "the built-in track, lake:7": {"closed_loop": DRIVEN},
    },
    "input": {"height": 66, "width": 200, "crop_top": 0.375, "crop_bottom": 0.0, "color_space": "yuv"},
    "parameters": 252219,
    "created": "2026-11-23T04:10:13+00:00",
    "versions": {"robostig": "0.1.0", "mxnet": "1.9.1"},
    "files": {"model-0000.params": "f4e9"},
}


def split(card: str) -> dict:
    """Split a card into its sections, title to text; what comes before the first has no title."""
    titles = ["", *re.findall(r"^## (.*)$", card, re.MULTILINE)]
    return dict(zip(titles, re.split(r"^## .*\n", card, flags=re.MULTILINE)))


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("", "# nvidia\n\nNVIDIA's PilotNet: five convolutions."),
        ("", "| parameters | 252,219 |"),
        ("", "| published in | Bojarski et al. 2016, arXiv:1604.07316 |"),
        ("", "| made on | 2026-11-23 |"),
        ("Use", "robostig drive DIR "),
        ("Use", 'load_artifact("DIR").net  # a Gluon block: (N, 3, 66, 200) float32'),
        ("Use", 'deploy({"nvidia": "DIR"}, role=role)'),
        ("Input and answer", "| cut away | 37.5% of its height above |"),
        ("Input and answer", "| resized to | 66 x 200 pixels (height x width) |"),
        ("Input and answer", "| colours | YUV, BT.601"),
        ("Input and answer", "1.0 is full lock to the right, 25 degrees"),
        ("Data", "| recording | my drive |"),
        ("Data", "| licence | LICENSE: MIT License |"),
        ("Data", "| rows | 10,632 |"),
        ("Data", "| bad rows, left out | 3 |"),
        ("Data", "| held out | every 5th stretch held out |"),
        (
            "Training",
            "robostig train \\\n    --data 'my drive' \\\n    --model nvidia \\\n    --epochs 7 \\\n    --flip 0.0 \\\n"
            "    --seed 3\n```",
        ),
        ("Training", "It ran for 7 epochs and 46 s, and epoch 6 was kept."),
        ("Scores", "| RMSE | 0.04000 (1.00 degrees) |"),
        ("Scores", "| ratio to always the mean | 0.400 |"),
        ("Scores", "| time for a frame (median) | 0.91 ms |"),
        ("Scores", "how it drives 8,382 m of 2 roads that none has seen."),
        ("Scores", "| lake:101 forward | 97.5 % | 0 | 0.25 m | 1.02 m |"),
        ("Scores", "| all | 97.5 % | 2 | 0.25 m | 1.02 m |"),
        ("Scores", "| the recording home | RMSE 0.04000 (1.00 degrees), 0.40 times that of always the mean, 0.93"),
        ("Scores", "| the built-in track, lake:7 | 97.5 % autonomy, 2 interventions |"),
        ("Limits", "It has seen nothing but this: my drive."),
        ("Limits", "On the recording lake it is no closer to the driver than one who never looks"),
        ("Versions and digests", "| mxnet | 1.9.1 |"),
        ("Versions and digests", "| model-0000.params | f4e9 |"),
    ],
)
def test_a_card_says_what_the_facts_say(section, said):
    assert said in split(make_card(FACTS))[section]


def test_the_command_that_a_card_prints_trains_with_its_settings():
    """The shell's words, read by the command's own parser, give the configuration of the facts."""
    config = TrainingConfig("comma", learning_rate=1e-5, hybridize=False, gap_s=0.25)
    card = make_card({**FACTS, "model": "comma", "config": config.to_dict()})
    command = re.search(r"```sh\n(robostig train .*?)```", card, re.DOTALL).group(1)
    words = shlex.split(command.replace("\\\n", ""))  # as a shell joins lines
    parser = argparse.ArgumentParser()
    parser.add_argument("--data")
    TrainingConfig.add_arguments(parser)
    assert TrainingConfig.from_arguments(parser.parse_args(words[2:])) == config


def test_only_where_it_is_worse_than_blind_a_card_warns_of_a_recording():
    limits = split(make_card(FACTS))["Limits"]
    assert "the recording lake" in limits and "the recording home" not in limits and "lake:7`" not in limits


def test_what_the_first_weights_have_seen_is_said():
    sections = split(make_card({**FACTS, "data": {**FACTS["data"], "pretrained_on": "ImageNet"}}))
    assert "| weights to begin with | ImageNet |" in sections["Data"]
    assert "but this: my drive; the weights that it began with were trained on ImageNet." in sections["Limits"]


def test_a_recording_of_its_own_that_was_held_out_belongs_to_the_command():
    data = {**FACTS["data"], "validation_fingerprint": "other"}
    assert "--validation DIR" in make_card({**FACTS, "data": data})
    assert "--validation" not in make_card(FACTS)


def test_a_card_of_hardly_any_facts_says_what_is_not_known():
    card = make_card({"model": "tiny", "scores": {"rmse": 0.25}, "notes": "from the attic", "data": "a drive"})
    sections = split(card)
    assert list(sections) == list(split(make_card(FACTS)))
    assert "| notes | from the attic |" in sections[""] and "| data | a drive |" in sections[""]
    assert "| rmse | 0.25 |" in sections["Scores"] and "it has not driven yet" in sections["Scores"]
    for section in ("Data", "Training", "Limits"):
        assert "not noted" in sections[section]
    assert "None" not in card and "not measured" in make_card({"model": "tiny"})


def test_marks_of_markdown_in_a_name_are_text():
    data = {**FACTS["data"], "folder": "a|b_c*d<e>`f`\n## g"}
    card = make_card({**FACTS, "data": data})
    assert "| recording | a\\|b\\_c\\*d\\<e\\>\\`f\\` ## g |" in card
    assert list(split(card)) == list(split(make_card(FACTS)))


def list_places(values, place=()):
    """List where in the facts a value stands: names from the outside in."""
    for name, value in values.items():
        yield (*place, name)
        if isinstance(value, dict):
            yield from list_places(value, (*place, name))


def put(values, place, value):
    return {**values, place[0]: put(values[place[0]], place[1:], value) if place[1:] else value}


@pytest.mark.parametrize("odd", [None, "", "x|y", 3, -0.5, True, [], [1, {}], {}, {"a|b": [1]}, 1e300], ids=str)
def test_whatever_a_fact_is_there_is_a_card(odd):
    for place in list_places(FACTS):
        if place != ("model",):
            card = make_card(put(FACTS, place, odd))
            assert card.startswith(MARK) and list(split(card)) == list(split(make_card(FACTS))), place
            for table in re.findall(r"(?:^\|.*\|\n)+", card, re.MULTILINE):
                assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1, (place, table)
