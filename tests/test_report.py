from __future__ import annotations

import argparse
import base64
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from robostig import camera
from robostig.artifact import save_artifact
from robostig.backend import mx
from robostig.closed_loop import ClosedLoop, Constant, evaluate_closed_loop
from robostig.comparison import Comparison, choose
from robostig.config import TrainingConfig
from robostig.driving_log import read_driving_log
from robostig.evaluation import OpenLoop
from robostig.metrics import score_steering
from robostig.models import get_model, get_spec
from robostig.pipeline import TrainedModel
from robostig.preprocessing import InputSpec
from robostig.report import FRAMES, SCENES, _rebuild_command, _trace_path, write_report
from robostig.roads import RECIPE, TEST_ROADS
from robostig.simulation import parse_tracks
from robostig.simulation.car import Car
from robostig.split import Split
from robostig.training import EpochRecord, TrainingResult

ROWS, HELD_OUT = 600, np.r_[100:250, 400:550]
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """The elements of a page, its tables as texts, and what is wrong with it."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.tables, self.words, self.faults = [], [], [], [], []
        self.feed(text)
        self.close()
        self.faults += [f"<{tag}> is not closed" for tag in self.open]

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes something else")

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def find(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def row(self, table, name):
        return next(row[1:] for row in self.tables[table] if row[0] == name)


def record_drive(folder):
    """Drive some curves at 15 Hz, one picture a row."""
    rng = np.random.default_rng(0)
    (folder / "IMG").mkdir(parents=True)
    lines = []
    for number in range(ROWS):
        milliseconds = round(number * 1000 / 15)
        stamp = f"2024_05_01_12_00_{milliseconds // 1000:02d}_{milliseconds % 1000:03d}"
        picture = np.full((32, 64, 3), number % 250, np.uint8)
        picture[:, : number % 64] = rng.integers(0, 255, 3, np.uint8)
        cv2.imwrite(str(folder / "IMG" / f"center_{stamp}.jpg"), picture)
        lines.append(f"IMG/center_{stamp}.jpg,,,{0.4 * np.sin(number / 20):.4f},0.5,0,20\n")
    (folder / "driving_log.csv").write_text("".join(lines))
    return read_driving_log(folder)


def train_pretend(name, log, split, folder, error, **latency):
    """Return a model that has been trained, as far as a report can tell."""
    human = log.steering[split.validation]
    predicted = (human + error).astype(np.float32)
    scores = score_steering(
        predicted,
        human,
        training_mean=float(log.steering[split.train].mean()),
        time_s=log.driving_clock()[split.validation],
        breaks=np.diff(split.validation, prepend=-2) != 1,
    )
    history = tuple(EpochRecord(n, 0.3 / n, 0.2 / n, 1e-3, 30.0, 500.0) for n in (1, 2, 3))
    labels = np.clip(log.steering[split.train] * 1.5, -1, 1)
    training = TrainingResult(history, 3, False, 0, ("cpu(0)",), labels)
    return TrainedModel(name, folder / name, 252219, training, OpenLoop(predicted, human, scores, latency))


def build(folder, out, models=("nvidia", "comma")):
    log = record_drive(folder)
    train = np.setdiff1d(np.arange(ROWS), HELD_OUT)
    split = Split(train, HELD_OUT, 0, "2 of 4 stretches held out")
    rng = np.random.default_rng(1)
    errors = {"nvidia": rng.normal(0, 0.08, len(HELD_OUT)), "comma": rng.normal(0, 0.04, len(HELD_OUT))}
    trained = {name: train_pretend(name, log, split, out, errors[name], p50=3.25, p99=7.5) for name in models}
    choice, reason = choose(trained, (log.driving_clock()[HELD_OUT] / 2).astype(int))
    return Comparison(trained, choice, reason, log, split, TrainingConfig(epochs=3, hybridize=False))


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    return build(folder / "lake", folder / "out")


@pytest.fixture(scope="module")
def page(comparison, tmp_path_factory):
    return Page(write_report(comparison, tmp_path_factory.mktemp("report")).read_text(encoding="utf-8"))


def test_the_page_is_well_formed_html_in_a_language(page):
    assert page.faults == []
    assert page.find("html")[0]["lang"] == "en"
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.find("meta")


def test_nothing_is_loaded_from_anywhere(comparison, tmp_path):
    text = write_report(comparison, tmp_path).read_text(encoding="utf-8")
    page = Page(text)
    addresses = [
        attributes[key] for _, attributes in page.elements for key in ("src", "href", "srcset") if key in attributes
    ]
    assert addresses and all(address.startswith("data:image/") for address in addresses)
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.elements}
    assert "http:" not in text and "https:" not in text and "url(" not in text and "@import" not in text
    assert page.find("meta")[3]["content"].startswith("default-src 'none'"), "and a browser is told so"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_the_choice_comes_first(page, comparison):
    assert comparison.choice == "comma"
    assert page.text.index("comma should drive", 40) < page.text.index("Scores")
    for part in comparison.reason.split(": ", 1)[1].split(". ")[1:]:
        assert part.rstrip(".") in page.text


def test_every_figure_has_a_picture_an_alternative_text_and_a_caption(page):
    plots = page.find("img")
    assert len(plots) == 4 and all(plot["src"].startswith("data:image/svg+xml;base64,") for plot in plots)
    assert len({plot["alt"] for plot in plots}) == 4 and all(len(plot["alt"]) > 40 for plot in plots)
    frames = page.find("svg")
    assert len(frames) == 2 * FRAMES and all("driver, " in frame["aria-label"] for frame in frames)
    assert len(page.find("figure")) == len(page.find("figcaption")) == len(plots) + len(frames)


def test_the_table_has_the_scores_of_models_and_baselines(page, comparison):
    head = list(page.tables[0][0])
    assert head[:3] == ["Model", "RMSEdegrees", "RMSEof full lock"]
    for name, model in comparison.models.items():
        scores = model.open_loop.scores
        assert page.row(0, name) == [
            f"{scores['rmse'] * 25:.2f}°",
            f"{scores['rmse']:.1%}",
            f"{scores['rmse_to_mean_baseline']:.2f}",
            *(f"{scores[key] * 25:.2f}°" for key in ("mae", "mae_left", "mae_straight", "mae_right")),
            f"{scores['correlation']:.2f}",
            f"{scores['whiteness']:.1f}",
        ]
    assert f"driver {scores['whiteness_human']:.1f}" in head[-1]
    mean, zero = page.row(0, "always the mean"), page.row(0, "always zero")
    assert mean[0] == f"{scores['rmse_mean_baseline'] * 25:.2f}°" and mean[2] == "1.00"
    assert (zero[0], zero[3]) == (
        f"{scores['rmse_zero_baseline'] * 25:.2f}°",
        f"{scores['mae_zero_baseline'] * 25:.2f}°",
    )
    assert mean[-2:] == zero[-2:] == ["–", "–"]
    assert page.row(1, "comma") == ["3.2 ms", "7.5 ms", "252,219", "90 s", "3", "3", "500"]


def test_headers_have_a_scope_and_columns_an_explanation(page):
    assert all(header["scope"] in ("col", "row") for header in page.find("th"))
    notes = [header["title"] for header in page.find("th") if "title" in header]
    assert len(notes) == len(page.tables[0][0]) + len(page.tables[1][0]) - 2
    assert all(note in page.text for note in notes), "a title needs a mouse; the explanation is in the text as well"


def test_the_best_values_are_highlighted_and_equal_ones_are_not(page):
    best = [attributes.get("class") == "best" for tag, attributes in page.elements if tag == "td"]
    assert best[:9] == [False] * 9, "nvidia is further off in every respect"
    assert all(best[9:18])
    assert not any(best[18:]), "neither are baselines, nor the costs, which are alike"


def test_the_worst_frames_are_the_worst_and_apart(page, comparison):
    found = re.findall(r"([\d.]+)° off at (\d+):(\d\d) of driving · row (\d+) · (\S+)", page.text)
    assert len(found) == 2 * FRAMES
    clock = comparison.log.driving_clock()
    for frames, model in zip((found[:FRAMES], found[FRAMES:]), comparison.models.values()):
        errors = np.abs(model.open_loop.predicted - model.open_loop.human) * 25
        rows = [int(row) for *_, row, _ in frames]
        assert float(frames[0][0]) == pytest.approx(errors.max(), abs=0.005)
        assert sorted((float(error) for error, *_ in frames), reverse=True) == [float(error) for error, *_ in frames]
        assert np.diff(np.sort(clock[rows])).min() >= 2.0
        for error, minutes, seconds, row, name in frames:
            assert float(error) == pytest.approx(errors[list(HELD_OUT).index(int(row))], abs=0.005)
            assert comparison.log.pictures["center"][int(row)].endswith(f"/{name}")
            assert int(minutes) * 60 + int(seconds) == int(clock[int(row)])


def test_the_frames_are_those_of_the_camera_and_the_paths_turn_the_right_way(page, comparison):
    row = int(re.search(r"· row (\d+) ·", page.text).group(1))
    _, _, data = page.find("image")[0]["href"].partition("base64,")
    embedded = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    recorded = cv2.imread(comparison.log.pictures["center"][row])
    assert embedded.shape == recorded.shape
    assert np.abs(embedded.astype(int) - recorded).mean() < 8
    path = np.array([point.split(",") for point in page.find("polyline")[0]["points"].split()], float)
    assert tuple(path[0]) == (32.0, 32.0), "the middle of the lower edge"
    assert np.sign(path[-1, 0] - 32) == np.sign(comparison.log.steering[row])
    assert (np.diff(path[:, 1]) <= 0).all(), "ahead is up"


def test_large_pictures_are_made_smaller(tmp_path):
    comparison = build(tmp_path / "lake", tmp_path, ["comma"])
    noise = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (720, 1280, 3), np.uint8))[1].tobytes()
    (tmp_path / "noise.jpg").write_bytes(noise)
    for path in map(Path, comparison.log.pictures["center"]):
        path.unlink()
        path.symlink_to(tmp_path / "noise.jpg")
    page = Page(write_report(comparison, tmp_path).read_text(encoding="utf-8"))
    assert {(image["width"], image["height"]) for image in page.find("image")} == {("480", "270")}
    assert (tmp_path / "report.html").stat().st_size < 3e6


def test_the_data_the_settings_and_the_command_are_there(page, comparison):
    assert "lake/driving_log.csv: 600 rows" in page.text
    assert str(comparison.log.source.parent) not in page.text
    assert comparison.split.description in page.text and comparison.log.fingerprint() in page.text
    command = "robostig compare --data lake --models nvidia,comma --out comparison --track none --epochs 3"
    assert f"{command} --hybridize False" in page.text
    assert "epochs 3 (not the default)" in page.text and "batch_size 64" in page.text
    assert f"NumPy {np.__version__}" in page.text


def test_the_command_is_one_that_the_flags_understand(comparison):
    parser = argparse.ArgumentParser()
    TrainingConfig.add_arguments(parser, leave_out=["model"])
    arguments, _ = parser.parse_known_args(shlex.split(_rebuild_command(comparison)))
    assert TrainingConfig.from_arguments(arguments) == comparison.config


@pytest.mark.parametrize("names", [("lake", "hills"), ("a/drive", "b/drive")])
def test_of_recordings_that_were_joined_the_command_names_every_one(make_recording, comparison, tmp_path, names):
    places = [make_recording(ROWS // 2, name=name, size=(16, 32), seed=seed) for seed, name in enumerate(names)]
    (tmp_path / names[1] / "IMG" / "empty.jpg").touch()
    with open(tmp_path / names[1] / "driving_log.csv", "a") as file:
        file.write("IMG/empty.jpg,,,0,0,0,0\n")
    joined = replace(comparison, log=read_driving_log(places, on_error="skip"))
    words = shlex.split(_rebuild_command(joined))
    assert words[2:6] == ["--data", names[0], "--data", names[1]]
    page = Page(write_report(joined, tmp_path / "out").read_text(encoding="utf-8"))
    assert f"on {', '.join(names)}" in page.text and f"{', '.join(names)}: 600 rows of 2 drives" in page.text
    assert f"{names[1]}/IMG/empty.jpg is empty" in page.text and str(tmp_path) not in page.text


def test_the_command_names_the_roads_and_leaves_out_what_is_usual(comparison):
    blind = evaluate_closed_loop(Constant(), parse_tracks("dirt:4,lake", "both"), laps=0.02)
    words = _rebuild_command(replace(comparison, blind=blind, laps=0.02))
    assert "--track dirt:4,lake:0 --laps 0.02 " in words
    usual = TrainingConfig(**RECIPE, seed=3)
    blind = evaluate_closed_loop(Constant(), parse_tracks(",".join(TEST_ROADS), "both"), laps=0.01)
    words = _rebuild_command(replace(comparison, blind=blind, is_built_in=True, config=usual))
    assert words == "robostig compare --models nvidia,comma --out comparison --seed 3"


def test_a_hostile_folder_name_is_but_text(tmp_path):
    name = "<script>alert(1)<&'\" $(rm)"
    comparison = build(tmp_path / name.replace("/", ""), tmp_path, ["comma"])
    text = write_report(comparison, tmp_path).read_text(encoding="utf-8")
    page = Page(text)
    assert page.faults == [] and not page.find("script") and "<script" not in text
    assert f"{name}/driving_log.csv" in page.text


def test_rows_that_were_left_out_are_listed_without_this_machine(tmp_path):
    comparison = build(tmp_path / "lake", tmp_path, ["comma"])
    (tmp_path / "lake" / "IMG" / "empty.jpg").touch()
    with open(tmp_path / "lake" / "driving_log.csv", "a") as file:
        file.write("IMG/empty.jpg,,,0,0,0,0\nIMG/<b>.jpg,,,0,0,0,0\n")
    comparison = replace(comparison, log=read_driving_log(tmp_path / "lake", on_error="skip"))
    page = Page(write_report(comparison, tmp_path).read_text(encoding="utf-8"))
    assert [row[0] for row in page.tables[2][1:]] == ["601", "602"]
    assert "lake/IMG/empty.jpg is empty" in page.tables[2][1][1] and "<b>.jpg" in page.tables[2][2][1]
    assert str(tmp_path) not in page.text


def test_what_is_not_there_is_a_dash(comparison, tmp_path):
    model = comparison.models["comma"]
    scores = {**model.open_loop.scores, "mae_left": None, "correlation": None, "whiteness": float("nan")}
    scores["whiteness_human"] = None
    model = replace(model, open_loop=replace(model.open_loop, scores=scores))
    page = Page(
        write_report(replace(comparison, models={"comma": model}, reason="comma"), tmp_path).read_text(encoding="utf-8")
    )
    assert [page.row(0, "comma")[column] for column in (4, 7, 8)] == ["–", "–", "–"]
    assert not re.search(r"\b(nan|NaN|None|inf)\b", page.text)


def test_one_model_is_reported_without_highlights(comparison, tmp_path):
    models = {"nvidia": comparison.models["nvidia"]}
    choice, reason = choose(models, np.arange(len(HELD_OUT)))
    alone = replace(comparison, models=models, choice=choice, reason=reason)
    page = Page(write_report(alone, tmp_path).read_text(encoding="utf-8"))
    assert "nvidia is the only model" in page.text
    assert not any(attributes.get("class") == "best" for attributes in page.find("td"))


def test_a_reason_of_another_form_is_shown_as_it_is(comparison, tmp_path):
    page = Page(write_report(replace(comparison, reason="It won: at dice."), tmp_path).read_text(encoding="utf-8"))
    assert "comma should drive It won: at dice." in page.text


def test_a_report_that_fails_leaves_the_old_one(tmp_path):
    comparison = build(tmp_path / "lake", tmp_path, ["comma"])
    out = tmp_path / "out"
    before = write_report(comparison, out).read_bytes()
    for path in comparison.log.pictures["center"]:
        Path(path).write_bytes(b"no picture")
    with pytest.raises(ValueError, match="neither a JPEG"):
        write_report(comparison, out)
    assert (out / "report.html").read_bytes() == before
    assert [path.name for path in out.iterdir()] == ["report.html"]


class Follower:
    """A driver who does what the expert would have done a moment before: he never needs help."""

    steering = 0.0

    def watch(self, moment):
        self.steering = moment.expert

    def __call__(self, frame):
        return self.steering


def let_drive(comparison, models, **changes):
    """Return a comparison whose models have driven."""
    models = {name: replace(comparison.models[name], closed_loop=loop) for name, loop in models.items()}
    choice, reason = choose(models, np.arange(len(HELD_OUT)) // 30)
    return replace(comparison, models=models, choice=choice, reason=reason, **changes)


def render(comparison, out):
    return Page(write_report(comparison, out).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def driven(comparison):
    """nvidia leaves the lane again and again, comma follows the expert."""
    tracks, follower = parse_tracks("lake:101,mountain:101", "both"), Follower()
    models = {
        "nvidia": evaluate_closed_loop(Constant(0.3), tracks, laps=0.05),
        "comma": evaluate_closed_loop(follower, tracks, laps=0.05, watch=follower.watch),
    }
    return let_drive(comparison, models, blind=evaluate_closed_loop(Constant(0.0), tracks, laps=0.05))


@pytest.fixture(scope="module")
def driven_page(driven, tmp_path_factory):
    return render(driven, tmp_path_factory.mktemp("driven"))


def show_scores(scores):
    """Return a row of the table of driving."""
    count, meters = scores["interventions"], scores["distance_m"]
    return [
        f"{scores['autonomy']:.1f} %",
        f"{count}",
        f"{meters / count:.0f} m" if count else f"none in {meters / 1000:.1f} km",
        f"{scores['lateral_rmse_m']:.2f} m",
        f"{scores['lateral_max_m']:.2f} m",
        f"{scores['whiteness']:.1f} / {scores['whiteness_expert']:.1f}",
        f"{scores['laps']:.1f}",
    ]


@pytest.fixture
def without_figures(monkeypatch):
    """Leave empty what most of the time goes into, where it is not looked at."""
    monkeypatch.setattr("robostig.figures.encode_figure", lambda figure: "data:image/svg+xml;base64,")


def test_driving_comes_first(driven_page, driven):
    assert driven_page.faults == []
    headings = [attributes["id"] for attributes in driven_page.find("h2")]
    assert headings == ["driving", "scores", "steering", "looks", "errors", "training", "data", "again"]
    assert driven.choice == "comma"
    text = driven_page.text
    bars = "Autonomy on 0.1 km of the built-in track: the share of the time in which nobody helps, more is better"
    assert 0 < text.index(bars) < text.index("Closed loop: ") < text.index("Distance from the driver on 300 held-out")
    assert f"{bars} nvidia 0.0 % comma 100.0 % always zero {driven.blind.scores['autonomy']:.1f} %" in text
    assert "2 roads of the built-in track, in both directions" in text


def test_the_table_of_driving_has_the_scores(driven_page, driven):
    names = ["nvidia", "comma", "always zero"]
    loops = [*(driven.models[name].closed_loop for name in names[:2]), driven.blind]
    assert loops[0].scores["interventions"] > 0 and loops[1].scores["distance_per_intervention_m"] is None
    assert driven_page.tables[0][1:] == [[name, *show_scores(loop.scores)] for name, loop in zip(names, loops)]
    assert "none in 0.1 km" in driven_page.tables[0][2]


def test_every_drive_has_its_scores(driven_page, driven):
    names = ["nvidia", "comma", "always zero"]
    loops = [*(driven.models[name].closed_loop for name in names[:2]), driven.blind]
    expected = []
    for number, drive in enumerate(driven.blind.drives):
        expected.append([f"{drive.track.name} {drive.track.direction}"])
        expected += [[name, *show_scores(loop.drives[number].summarize())] for name, loop in zip(names, loops)]
    assert driven_page.tables[1][1:] == expected
    assert [header for header in driven_page.find("th") if header["scope"] == "rowgroup"] == [
        {"scope": "rowgroup", "colspan": "8"}
    ] * len(driven.blind.drives)


def test_the_columns_of_driving_are_explained_and_the_best_of_them_highlighted(driven_page):
    notes = [header["title"] for header in driven_page.find("th") if "title" in header]
    assert all(note in driven_page.text for note in notes)
    best = [attributes.get("class") == "best" for tag, attributes in driven_page.elements if tag == "td"]
    assert best[:5] == [False] * 5 and best[7:12] == [True] * 5, "comma, whose distance has no end, is best"
    assert not any(best[14:21]), "the driver who does not look is none to choose"


def cut_short(loop):
    """Return the first drive alone, which is quick to draw."""
    return ClosedLoop(loop.drives[:1], loop.elapsed_s)


@pytest.mark.usefixtures("without_figures")
def test_two_drivers_without_interventions_are_both_the_best(driven, tmp_path):
    models = {name: replace(model, closed_loop=cut_short(model.closed_loop)) for name, model in driven.models.items()}
    models["comma again"] = replace(models["comma"], name="comma again")
    page = render(replace(driven, models=models, blind=None), tmp_path)
    best = [attributes.get("class") == "best" for tag, attributes in page.elements if tag == "td"]
    assert best[:3] == [False] * 3 and best[7:10] == best[14:17] == [True] * 3


def list_svg_texts(plot):
    """Return what is written in a figure; matplotlib draws the letters, and leaves the text in a comment."""
    svg = base64.b64decode(plot["src"].partition("base64,")[2]).decode()
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    return set(re.findall(r"<!-- (.*?) -->", svg))


def test_every_drive_is_drawn_and_every_figure_has_a_name(driven_page, driven):
    plots = driven_page.find("img")
    assert len(plots) == 4 + 2 and len({plot["alt"] for plot in plots}) == len(plots)
    for plot in plots[:2]:
        assert {str(drive.track) for drive in driven.blind.drives} <= list_svg_texts(plot)
    frames = driven_page.find("svg")
    assert len(driven_page.find("figure")) == len(driven_page.find("figcaption")) == len(plots) + len(frames)


def test_the_strips_show_the_worst_drive_as_it_was_seen(driven_page, driven):
    pictures, labels = driven_page.find("image"), [frame["aria-label"] for frame in driven_page.find("svg")]
    captions = re.findall(r"(\d+) m along · ([\d.]+) m( left| right)?", driven_page.text)
    assert len(pictures) == len(labels) == len(captions) + 2 * FRAMES
    shown = 0
    for name, model in driven.models.items():
        drive = max(
            model.closed_loop.drives, key=lambda each: (each.intervened.sum(), np.abs(each.lateral_error_m).max())
        )
        assert f"{name} on {drive.track}: {drive.intervened.sum() or 'no'} intervention" in driven_page.text
        assert f"at most {np.abs(drive.lateral_error_m).max():.2f} m from the middle" in driven_page.text
        assert len(drive.snapshots) == 8
        for step, jpeg in drive.snapshots:
            _, _, data = pictures[shown]["href"].partition("base64,")
            assert base64.b64decode(data) == jpeg
            assert f"along {drive.track}, seen by {name}, with the paths of expert, " in labels[shown]
            assert f"{name}, {abs(drive.steering[step]) * 25:.1f}°" in labels[shown]
            along, aside, _ = captions[shown]
            before = step - 1  # where the car was when the picture was taken
            fresh = step == 0 or drive.intervened[before]
            assert float(along) == pytest.approx(drive.along_m[before] if step else 0.0, abs=0.51)
            assert float(aside) == pytest.approx(0.0 if fresh else abs(drive.lateral_error_m[before]), abs=0.0051)
            shown += 1
    assert {(each["width"], each["height"]) for each in pictures[:shown]} == {("320", "160")}


@pytest.mark.usefixtures("without_figures")
def test_a_drive_without_pictures_and_without_a_blind_driver_can_be_reported(driven, tmp_path):
    (drive,) = cut_short(driven.models["comma"].closed_loop).drives
    loop = ClosedLoop((replace(drive, snapshots=()),), 1.0)
    page = render(let_drive(driven, {"comma": loop}, blind=None), tmp_path)
    assert page.faults == [] and "always zero" not in page.text.partition("On the recording")[0]
    assert len(page.find("image")) == FRAMES and "What they saw" not in page.text
    assert [row[0] for row in page.tables[0]] == ["Model", "comma"]


def test_of_many_roads_the_hardest_are_drawn(driven, tmp_path, monkeypatch):
    monkeypatch.setattr("robostig.report.ROADS", 1)
    drives = driven.models["comma"].closed_loop.drives
    drives = (*drives[:3], replace(drives[3], intervened=drives[3].intervened | True))
    page = render(let_drive(driven, {"comma": ClosedLoop(drives, 1.0)}, blind=None), tmp_path)
    assert {line for line in list_svg_texts(page.find("img")[0]) if ":" in line} == {
        str(each.track) for each in drives[2:]
    }
    assert "The 1 road on which it went worst." in page.text
    assert str(drives[0].track) in page.text, "the table tells of all"


@pytest.mark.usefixtures("without_figures")
def test_driving_that_chose_nobody_does_not_lead_the_page(driven, tmp_path):
    loop = cut_short(driven.models["nvidia"].closed_loop)
    lost = let_drive(driven, {"nvidia": loop, "comma": loop})
    page = render(lost, tmp_path)
    assert "Autonomy on" not in page.text
    assert page.text.index("Distance from the driver") < page.text.index("Closed loop: ")
    assert "Models are ranked by it; less is better." in page.text


@pytest.mark.usefixtures("without_figures")
def test_models_of_which_one_did_not_drive_are_reported_by_the_recording(driven, comparison, tmp_path):
    models = {**driven.models, "comma": comparison.models["comma"]}
    page = render(replace(comparison, models=models), tmp_path)
    assert "Closed loop" not in page.text and page.find("h2")[0]["id"] == "scores"


@pytest.mark.usefixtures("without_figures")
def test_a_hostile_model_name_is_but_text_where_it_drives(driven, tmp_path):
    name = "<img src=x onerror=alert(1)>&\"'"
    loop = cut_short(driven.models["nvidia"].closed_loop)
    models = {name: replace(driven.models["nvidia"], name=name, closed_loop=loop)}
    lone = replace(driven, models=models, choice=name, reason="It won.", blind=cut_short(driven.blind))
    text = write_report(lone, tmp_path).read_text("utf-8")
    page = Page(text)
    assert page.faults == [] and "<img src=x" not in text and not any("onerror" in each for each in page.find("img"))
    assert [row[0] for row in page.tables[0]] == ["Model", name, "always zero"]


@pytest.mark.parametrize("steering", [-1.0, -0.2, 0.0, 0.1, 1.0])
def test_paths_lead_where_the_car_would_go(steering):
    car = Car(heading=np.pi / 2, speed_mps=1.0, steering=steering)
    ahead, aside = [0.0], [0.0]
    for _ in range(200):
        car.step(steering, 0.02)
        ahead.append(car.y)
        aside.append(car.x)
    nearest, _ = camera.view_ground(np.array(159.5), np.array(0.0))
    columns, rows, _ = camera.project(nearest + np.array(ahead), np.array(aside))
    path = np.array([point.split(",") for point in _trace_path(steering, 640, 320).split()], float) / 2.0
    near = path[path[:, 1] >= rows.min() + 0.1]
    assert len(near) > 5
    np.testing.assert_allclose(np.interp(near[:, 1], rows[::-1], columns[::-1]), near[:, 0], atol=0.2)


def test_paths_keep_to_the_middle_and_the_shape_of_other_pictures():
    points = [
        np.array([point.split(",") for point in _trace_path(0.3, width, 120).split()], float) for width in (160, 240)
    ]
    np.testing.assert_allclose(points[1] - points[0], np.broadcast_to([40.0, 0.0], points[0].shape))
    assert points[0][0].tolist() == [80.0, 120.0]
    assert points[0][:, 1].min() > camera.HORIZON * 120


def test_what_the_models_look_at_is_shown_and_measured(tmp_path):
    comparison = build(tmp_path / "lake", tmp_path / "out")
    for name, model in comparison.models.items():
        net = get_model(name)
        net.initialize()
        save_artifact(model.artifact, net, get_spec(name).input, {"model": name})
    page = Page(write_report(comparison, tmp_path).read_text(encoding="utf-8"))
    assert page.faults == [] and "What they look at" in page.text
    frames = [frame["aria-label"] for frame in page.find("svg") if "looks at" in frame["aria-label"]]
    assert len(frames) == 2 * SCENES and all("with the steering of driver, " in label for label in frames)
    assert "What nvidia looks at" in frames[0] and "What comma looks at" in frames[-1]
    rows = [int(row) for row in re.findall(r"looks at in row (\d+)", " ".join(frames))]
    assert rows[:SCENES] == rows[SCENES:] and set(rows) <= set(HELD_OUT)
    steering = comparison.log.steering[rows[:SCENES]]
    assert steering[0] < -0.3 and abs(steering[1]) < 0.05 and steering[2] > 0.3
    (table,) = (table for table in page.tables if "Painted out" in table[0][1])
    assert [row[0] for row in table[1:]] == ["nvidia", "comma"]
    assert table[0][1:] == ["Painted outsalient pixels", "Painted outothers", "Painted outmore than others"]
    assert all(re.fullmatch(r"[\d.]+°", cell) for row in table[1:] for cell in row[1:3])
    assert "48 frames, evenly spaced, of the held-out stretches" in page.text


def test_where_the_models_learned_the_edges_of_roads_are_measured_too(tmp_path):
    comparison = build(tmp_path / "lake", tmp_path / "out", ["nvidia"])
    model = comparison.models["nvidia"]
    net = get_model("nvidia")
    net.initialize()
    save_artifact(model.artifact, net, get_spec("nvidia").input, {"model": "nvidia"})
    loop = evaluate_closed_loop(Constant(0.0), parse_tracks("lake:101"), laps=0.05)
    model = replace(model, closed_loop=loop)
    driven = replace(comparison, models={"nvidia": model}, blind=loop, laps=0.05, is_built_in=True)
    page = Page(write_report(driven, tmp_path).read_text(encoding="utf-8"))
    (table,) = (table for table in page.tables if "At the edges" in table[0][1])
    assert table[0][1:3] == ["At the edgessalient pixels", "At the edgesby chance"]
    assert all(0.0 < float(cell.rstrip("%")) < 100.0 for cell in table[1][1:3])
    assert "of the expert’s drive on the roads above" in page.text


def test_a_model_that_cannot_be_explained_is_named_with_the_reason(comparison, tmp_path):
    model = replace(comparison.models["comma"], artifact=tmp_path / "flat")
    net = mx.gluon.nn.Dense(1)
    net.initialize()
    save_artifact(model.artifact, net, InputSpec(4, 8), {"model": "flat"})
    models = {"nvidia": comparison.models["nvidia"], "comma": model}
    page = Page(write_report(replace(comparison, models=models), tmp_path).read_text(encoding="utf-8"))
    assert "nvidia: it cannot be explained: its artifact is no longer where it was." in page.text
    assert "comma: it cannot be explained: it has no convolutions" in page.text
    assert str(tmp_path) not in page.text
