from __future__ import annotations

import signal
from typing import List, Tuple

import pytest
from outcomes import assert_one_line

import robostig

WRONG: List[Tuple[List[str], int, str]] = [
    (["train", "--data", "data", "--model", "nvidea"], 2, "did you mean 'nvidia'"),
    (["train", "--data", "data", "--epochs", "0"], 2, "epochs is 0; it takes 1 to"),
    (["train", "--data", "data", "--epochs", "x"], 2, "epochs is 'x'; it takes a whole number"),
    (["compare", "--data", "data", "--models", "nvidia,com"], 2, "did you mean 'comma'"),
    (["compare", "--data", "data", "--models", "nvidia,nvidia"], 2, "name each model once"),
    (
        ["compare", "--data", "data", "--pretrained", "true"],
        2,
        "no trained weights of 'comma'; models that have some: mobi",
    ),
    (["tune", "--data", "data", "--model", "comma", "--pretrained", "yes"], 2, "no trained weights of 'comma'"),
    (["train", "--data", "data", "--model", "comma", "--pretrained", "true"], 2, "no trained weights of 'comma'"),
    (["train", "--data", "data", "--freeze-epochs", "-1"], 2, "freeze_epochs is -1; it takes at least 0"),
    (["tune", "--data", "data", "--trials", "0"], 2, "--trials is 0; it is how many there should be in all"),
    (["tune", "--data", "data", "--minutes", "nan"], 2, "--minutes is nan; it is more than 0"),
    (["tune", "--data", "data", "--model", "nvidea"], 2, "did you mean 'nvidia'"),
    (["tune", "--data", "data", "--learning-rate", "5"], 2, "learning_rate is 5.0; it takes 1e-07 to 1"),
    (["train", "--data", "nowhere"], 1, "there is no nowhere"),
    (["compare", "--data", "data"], 1, "driving_log.csv"),
    (["train", "--data", "data", "--device", "gpu:99"], 1, "driving_log.csv"),
    (["evaluate", "data", "--data", "data"], 1, "no trained model in data"),
    (
        ["evaluate", "nvidla", "--track", "lake"],
        1,
        "nor do weights of that name come with RoboStig (there are: nvidia)",
    ),
    (["evaluate", "--constant", "0", "--track", "lake", "--dtype", "int8"], 2, "--dtype is about what an ARTIFACT"),
    (["evaluate", "nvidia", "--track", "lake", "--keep", "--dtype", "int8"], 2, "leave out one of --keep and --dtype"),
    (["evaluate", "nvidia", "--track", "lake", "--dtype", "int8"], 1, "Use float32 for this model"),
    (["drive", "--endpoint", "e", "--dtype", "int8"], 2, "--dtype is about what an ARTIFACT"),
    (["drive", "nvidia", "--dtype", "int8"], 1, "Use float32 for this model"),
    (["evaluate", "--constant", "0", "--track", "lake", "--keep"], 2, "--keep notes the scores in an ARTIFACT"),
    (["serve", "nvidla"], 1, "nor do weights of that name come with RoboStig (there are: nvidia)"),
    (["evaluate", "data", "--track", "lake"], 1, "no trained model in data"),
    (["evaluate"], 2, "name one driver: an ARTIFACT, or --endpoint NAME"),
    (["evaluate", "data", "--constant", "0", "--track", "lake"], 2, "name one driver"),
    (["evaluate", "data"], 2, "say what to score it on: --data DIR, --track NAMES, or both"),
    (["evaluate", "--constant", "2", "--track", "lake"], 2, "a steering is between -1 and 1"),
    (["evaluate", "--constant", "0", "--track", "laek"], 2, "there is no track 'laek'. Did you mean lake?"),
    (["evaluate", "--constant", "0", "--track", "mountain:x"], 2, "as in mountain:17"),
    (["evaluate", "--constant", "0", "--track", "lake", "--laps", "0"], 1, "laps is 0; it is more than 0"),
    (["evaluate", "--constant", "0", "--track", "lake", "--laps", "nan"], 1, "laps is nan"),
    (["evaluate", "--constant", "0", "--track", "lake", "--speed", "90"], 1, "drives at 1 to 30"),
    (["evaluate", "--constant", "0", "--track", "lake", "--delay", "-1"], 1, "between 0 and 2 seconds"),
    (["evaluate", "--constant", "0", "--track", "lake", "--video", "x.gif"], 1, "name it with one of .mp4"),
    (["evaluate", "--constant", "0", "--track", "lake", "--video", "no/x.avi"], 1, "no folder no"),
    (["evaluate", "--constant", "0", "--data", "data", "--video", "x.avi"], 2, "with --track NAMES"),
    (["evaluate", "--constant", "0", "--data", "data", "--laps", "3"], 2, "--laps is about a drive"),
    (["evaluate", "--constant", "0", "--data", "data", "--rows", "all"], 2, "--rows is about what an ARTIFACT"),
    (["evaluate", "--constant", "0", "--data", "data", "--track", "lak"], 2, "there is no track 'lak'"),
    (["evaluate", "--constant", "0", "--track", "lake", "--video", "data"], 1, "is to be a video"),
    (["compare", "--laps", "nan"], 2, "laps is nan"),
    (["compare", "--device", "tpu"], 1, "device is 'tpu'"),
    (["compare", "--freeze-epochs", "1"], 1, "freeze_epochs=1 would hold"),
    (["record", "out", "--seed", "-1"], 1, "the seed is -1"),
    (["compare", "--track", "hills"], 2, "there is no track 'hills'"),
    (["record", "out", "--track", "lake:-1"], 2, "there is no track 'lake:-1'"),
    (["record", "out", "--laps", "0"], 1, "laps is 0"),
    (["record", "."], 1, "is there already"),
    (["inspect", "data"], 1, "driving_log.csv"),
    (["inspect", "nowhere", "--out", "inspect.png"], 1, "there is no nowhere"),
    (["inspect", "data", "--out", "inspect.gif"], 2, "name a file that ends with .png, .pdf, .svg"),
    (["inspect", "data", "--out", "data"], 2, "--out is data; name a file"),
    (["inspect", "data", "--stretch-s", "0"], 2, "stretch_s is 0.0; it takes at least 0.1"),
    (["explain", "nvidia", "--out", "out"], 2, "--data DIR or --track NAMES, one of the two"),
    (["explain", "nvidia", "--out", "out", "--data", "data", "--track", "lake"], 2, "one of the two"),
    (["explain", "nvidia", "--out", "out", "--data", "data", "--laps", "2"], 2, "--laps is about a drive"),
    (["explain", "nvidia", "--out", "out", "--data", "data"], 1, "driving_log.csv"),
    (["explain", "data", "--out", "out", "--track", "lake"], 1, "no trained model in data"),
    (["explain", "nvidia", "nvidia", "--out", "out", "--track", "lake"], 2, "name each artifact once"),
    (["explain", "nvidia", "--out", "out", "--track", "laek"], 2, "Did you mean lake?"),
    (["explain", "nvidia", "--out", "out", "--track", "lake", "--laps", "0"], 2, "laps is 0"),
    (["explain", "nvidia", "--out", "out", "--track", "lake", "--frames", "0"], 2, "1 to 12"),
    (
        ["explain", "nvidia", "--out", "data", "--track", "lake", "--laps", "0.01", "--video", "x.gif"],
        1,
        "to be a video",
    ),
    (["drive"], 2, "ARTIFACT"),
    (["record", ""], 2, "out is empty: name what you mean, or leave it out"),
    (["train", "--data", "data", "--data", " "], 2, "data is empty"),
    (["compare", "--out", ""], 2, "out is empty"),
    (["explain", "nvidia", "", "--track", "lake", "--out", "out"], 2, "artifacts is empty"),
    (["evaluate", "nvidia", "--track", "lake", "--on-error", "skip", "--video", ""], 2, "video is empty"),
    (["simulate", "--connect", "ws://127.0.0.1:9"], 1, "nobody listens"),
]


COMMANDS = (
    "models",
    "record",
    "pack",
    "inspect",
    "train",
    "tune",
    "evaluate",
    "compare",
    "explain",
    "export",
    "drive",
    "simulate",
)


@pytest.mark.parametrize(("words", "status", "message"), WRONG, ids=[" ".join(words) for words, _, _ in WRONG])
def test_a_mistake_is_answered_in_one_line(run, tmp_path, words, status, message):
    (tmp_path / "data").mkdir()
    assert_one_line(run(*words), status, message)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize(
    "words",
    [[], ["fly"], ["train"], ["record"], ["compare", "--model", "nvidia", "--data", "x"], ["train", "--dat", "x"]],
)
def test_words_that_are_no_command_end_with_status_2(run, words):
    status, out, err = run(*words)
    assert status == 2 and out == "" and err.startswith("usage: robostig")


def test_an_interruption_says_how_to_go_on(run, monkeypatch):
    monkeypatch.setattr("robostig.models.list_models", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    status, _, err = run("models")
    assert status == 130 and "interrupted" in err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_shows_an_example(run, command):
    status, out, _ = run(command, "--help")
    assert status == 0 and f"example: robostig {command} " in out and ("--json" in out or command == "drive")


def test_the_command_itself_says_what_there_is(run):
    status, out, _ = run("--help")
    assert status == 0 and all(command in out for command in COMMANDS)
    assert run("--version")[:2] == (0, f"robostig {robostig.__version__}\n")


@pytest.mark.parametrize(("before", "ends"), [(signal.SIG_DFL, True), (signal.SIG_IGN, False)])
def test_a_command_ends_with_its_terminal_unless_nohup_keeps_it(run, before, ends):
    kept = signal.signal(signal.SIGHUP, before), signal.getsignal(signal.SIGTERM)
    try:
        assert run("models")[0] == 0
        handler = signal.getsignal(signal.SIGHUP)
        assert callable(handler) == ends
        if ends:
            with pytest.raises(SystemExit) as caught:
                handler(signal.SIGHUP, None)
            assert caught.value.code == 129
    finally:
        signal.signal(signal.SIGHUP, kept[0])
        signal.signal(signal.SIGTERM, kept[1])
