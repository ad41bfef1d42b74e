from __future__ import annotations

import argparse
import base64
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from robostig.comparison import Comparison, choose
from robostig.config import TrainingConfig
from robostig.driving_log import Split, read_driving_log
from robostig.evaluation import OpenLoop
from robostig.metrics import score_steering
from robostig.pipeline import TrainedModel
from robostig.report import FRAMES, _rebuild_command, write_report
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
    assert len(frames) == 2 * FRAMES and all("human, " in frame["aria-label"] for frame in frames)
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
    assert f"human {scores['whiteness_human']:.1f}" in head[-1]
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
    assert (
        "robostig compare --data lake --models nvidia,comma --out comparison --epochs 3 --hybridize False" in page.text
    )
    assert "epochs 3 (not the default)" in page.text and "batch_size 64" in page.text
    assert f"NumPy {np.__version__}" in page.text


def test_the_command_is_one_that_the_flags_understand(comparison):
    parser = argparse.ArgumentParser()
    TrainingConfig.add_arguments(parser, leave_out=["model"])
    arguments, _ = parser.parse_known_args(shlex.split(_rebuild_command(comparison)))
    assert TrainingConfig.from_arguments(arguments) == comparison.config


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
