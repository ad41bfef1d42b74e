from __future__ import annotations

import asyncio
import json
import socket
import threading

import pytest
from aiohttp import web
from raw_simulator import ServerThread

from robostig.cli import main
from robostig.closed_loop import Constant, evaluate_closed_loop
from robostig.driving import simulator
from robostig.driving.server import DrivingServer
from robostig.driving.simulator import parse_address, simulate
from robostig.simulation import Simulation, load_track, steer_towards


@pytest.fixture(scope="module")
def track():
    return load_track("lake")


def drive(track, steer=None, *, simulation=None, laps=0.12, set_speed_mph=15.0, **options):
    """Drive a stretch through a real socket; the driver knows where the car is, and needs no model."""
    simulation = simulation or Simulation(track)

    def expert(_):
        return steer_towards(simulation.car, track.lane, simulation.place)

    server = DrivingServer(steer or expert, set_speed_mph=set_speed_mph)
    with ServerThread(server) as running:
        address = parse_address(f"ws://127.0.0.1:{running.port}")
        driven = asyncio.run(simulate(address, simulation, laps=laps, **options))
    return driven, simulation, server


def test_a_good_driver_gets_around_without_help(track):
    driven, simulation, server = drive(track)
    assert driven.finished and driven.laps >= 0.12 and driven.interventions == 0 and driven.autonomy == 100.0
    assert driven.lateral_max_m < 0.5 and driven.distance_per_intervention_m is None
    assert simulation.car.speed_mph == pytest.approx(15.0, abs=3.0)  # it set off from rest
    assert server.frames >= driven.frames and server.blind == 0
    assert driven.simulated_s == pytest.approx(driven.frames / 15)
    assert json.loads(json.dumps(driven.to_dict())) == driven.to_dict()


def test_a_driver_who_never_steers_needs_help(track):
    driven, _, _ = drive(track, lambda frame: 0.0, laps=0.3)
    assert driven.finished and driven.interventions > 2 and driven.autonomy < 80
    assert driven.distance_per_intervention_m == pytest.approx(driven.distance_m / driven.interventions)
    assert 1.0 < driven.lateral_max_m < 3.0


def test_decimal_commas_change_nothing(track):
    points, _, _ = drive(track, laps=0.05)
    commas, _, _ = drive(track, laps=0.05, decimal_comma=True)
    # A number that was misread would be full lock, or no throttle; a busy machine may answer a frame or two blind.
    assert commas.finished and commas.interventions == 0
    assert commas.frames == pytest.approx(points.frames, rel=0.2)
    assert commas.lateral_rmse_m == pytest.approx(points.lateral_rmse_m, abs=0.02)


def test_a_human_drives_first_and_hands_over(track):
    driven, simulation, server = drive(track, laps=0.08, manual_s=20.0)
    assert driven.finished and driven.interventions == 0
    assert (
        driven.laps == pytest.approx(0.08, abs=0.005) and simulation.laps > driven.laps + 0.05
    )  # what the human drove
    assert server.frames >= driven.frames > 0 and driven.simulated_s == pytest.approx(simulation.time_s - 20, abs=0.2)


def test_a_car_that_stands_still_ends_the_drive(track, monkeypatch):
    monkeypatch.setattr(simulator, "STANDS_STILL_S", 10.0)
    driven, simulation, server = drive(track, lambda frame: float("nan") if frame.any() else 0.0)
    assert not driven.finished and driven.distance_m == pytest.approx(0, abs=0.1) and server.blind == server.frames
    assert 10 < simulation.time_s < 11
    assert driven.simulated_s == driven.frames == driven.interventions == 0  # to stand is not to drive
    assert driven.autonomy is driven.lateral_rmse_m is driven.lateral_max_m is driven.whiteness is None


def test_a_car_that_is_left_half_way_is_scored_for_what_it_drove(track, monkeypatch):
    monkeypatch.setattr(simulator, "STANDS_STILL_S", 20.0)
    simulation = Simulation(track)

    def steer(_):
        return steer_towards(simulation.car, track.lane, simulation.place) if simulation.laps < 0.02 else float("nan")

    driven, simulation, _ = drive(track, steer, simulation=simulation, laps=0.5)
    assert not driven.finished and 0.02 < driven.laps < 0.1 and driven.autonomy is not None
    assert driven.distance_m == pytest.approx(simulation.travelled_m) and driven.laps == simulation.laps
    assert driven.simulated_s == pytest.approx(driven.frames / 15) and driven.simulated_s < simulation.time_s - 15


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ws://127.0.0.1:4567", "ws://127.0.0.1:4567/socket.io/?EIO=4&transport=websocket"),
        ("ws://127.0.0.1:4567/", "ws://127.0.0.1:4567/socket.io/?EIO=4&transport=websocket"),
        ("car.local:80", "ws://car.local:80/socket.io/?EIO=4&transport=websocket"),
        ("[fe80::1%eth0]:4567", "ws://[fe80::1%eth0]:4567/socket.io/?EIO=4&transport=websocket"),
        ("https://[::1]:443/page", "wss://[::1]:443/socket.io/?EIO=4&transport=websocket"),
    ],
)
def test_addresses_are_completed(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ws://", "names no host"),
        ("ws://:4567", "names no host"),
        ("?", "names no host"),
        ("ftp://x", "ftp:// is none of ws://"),
        ("ws:// x", "' x' is no name of a host"),
        ("ws://a%b:80", "is no name of a host"),
        ("ws://a@b", "no user to log in"),
        ("ws://127.0.0.1:99999", "the port out of range 0-65535"),
        ("127.0.0.1:0", "ports are 1 to 65535"),
        ("127.0.0.1:", "ports are 1 to 65535"),
        ("ws://car:x", "the port could not be cast"),
        ("ws://[::1:5", "invalid IPv6"),
        ("ws://::1:4567", "names no host"),
        ("ws://car:80/?x", "nothing comes after the port"),
    ],
)
def test_what_is_no_address_is_refused_with_the_reason(text, reason, capsys):
    with pytest.raises(ValueError) as refusal:
        parse_address(text)
    assert str(refusal.value).startswith(f"{text!r} is no address: ") and reason in str(refusal.value)
    assert fail(capsys, "--connect", text) == (2, f"robostig simulate: {refusal.value}")


def test_the_command_prints_the_scores(track, capsys):
    with ServerThread(DrivingServer(lambda frame: 0.0)) as server:
        words = ["simulate", "--connect", f"127.0.0.1:{server.port}", "--laps", "0.01"]
        assert main(words) == 0
        out = capsys.readouterr().out
        assert [line.split()[0] for line in out.splitlines()][:3] == ["laps", "interventions", "autonomy"]
        assert main([*words, "--direction", "backward", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)["closed_loop"]
    assert scores["laps"] >= 0.01 and scores["interventions"] == 0 and scores["finished"]
    alike = evaluate_closed_loop(Constant(), [load_track("lake", "backward")], laps=0.01).summarize()["tracks"][0]
    assert set(alike) - set(scores) == {"whiteness_expert"}  # the same names, and the same place
    assert (scores["track"], scores["direction"]) == (alike["track"], alike["direction"]) == ("lake:0", "backward")


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_a_drive_that_is_not_finished_is_a_failure_that_is_said(words, capsys, monkeypatch):
    monkeypatch.setattr(simulator, "STANDS_STILL_S", 5.0)
    with ServerThread(DrivingServer(lambda frame: float("nan") if frame.any() else 0.0)) as server:
        assert main(["simulate", "--connect", f"127.0.0.1:{server.port}", *words]) == 1
    out, err = capsys.readouterr()
    assert "robostig simulate: the car came no further for a minute: the model drove 0.00 of 1 laps" in err
    if words:
        scores = json.loads(out)["closed_loop"]
        assert scores["autonomy"] is None and not scores["finished"]
    else:
        assert out.startswith("laps") and "autonomy" not in out


def fail(capsys, *words):
    status = main(["simulate", *words])
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err and err.splitlines()[-1].startswith("robostig simulate: ")
    return status, err.splitlines()[-1]


def test_mistakes_are_answered_in_one_line(capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"ws://127.0.0.1:{free.getsockname()[1]}"
    status, line = fail(capsys, "--connect", address)
    assert status == 1 and f"nobody listens at {address}: start a server with robostig drive" in line
    assert fail(capsys, "--connect", "ftp://x")[0] == 2
    assert fail(capsys, "--laps", "0")[0] == 2
    status, line = fail(capsys, "--track", "moon")
    assert status == 2 and "lake" in line


def test_a_server_of_another_kind_is_told_from_a_driving_one(capsys):
    def serve(loop, port, answer):
        async def talk(request):
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            await socket.send_str('0{"sid":"x"}')
            await socket.send_str(answer)
            return socket

        async def start():
            application = web.Application()
            if answer:
                application.router.add_get("/socket.io/", talk)
            runner = web.AppRunner(application)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            port.append(runner.addresses[0][1])
            return runner

        runner = loop.run_until_complete(start())
        loop.call_soon(ready.set)
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    for answer, message in (
        ("", "not as a driving server does (status 404)"),
        ('42["steer",{"steering_angle":0.1,"throttle":"1"}]', "would stop a real simulator (a number, where"),
        ('42["steer",{}]', "would stop a real simulator"),
        ('42["manual",{}]', "hung up"),
    ):
        loop, port, ready = asyncio.new_event_loop(), [], threading.Event()
        thread = threading.Thread(target=serve, args=(loop, port, answer), daemon=True)
        thread.start()
        assert ready.wait(10)
        status, line = fail(capsys, "--connect", f"127.0.0.1:{port[0]}", "--laps", "0.01")
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        assert status == 1 and message in line
