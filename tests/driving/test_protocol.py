from __future__ import annotations

import json

import pytest

from robostig.driving import protocol
from robostig.driving.protocol import Telemetry


def test_messages_are_the_simulator_s_byte_for_byte():
    telemetry = Telemetry(image="/9j/4AA=", steering_deg=-1.25, throttle=0.2, speed_mph=30.19037)
    assert protocol.encode_telemetry(telemetry) == (
        '42["telemetry",{"steering_angle":"-1.2500","throttle":"0.2000","speed":"30.1904","image":"/9j/4AA="}]'
    )
    assert protocol.encode_telemetry(None) == '42["telemetry",null]'
    comma = Telemetry("x", -1.25, 0.2, 1234.5, decimal_comma=True)
    assert '"speed":"1.234,5000"' in protocol.encode_telemetry(comma)
    assert protocol.encode_event("manual", {}) == '42["manual",{}]'
    assert protocol.encode_steer(-0.25, 1.0) == '42["steer",{"steering_angle":"-0.250000","throttle":"1.000000"}]'
    welcome = protocol.encode_open("abc")
    assert welcome[0] == "0" and json.loads(welcome[1:])["sid"] == "abc"


@pytest.mark.parametrize("telemetry", [Telemetry("x", -1.25, 0.5, 12.5), Telemetry("x", 0.25, -1.0, 0.0, True), None])
def test_telemetry_comes_through(telemetry):
    name, payload = protocol.decode_event(protocol.encode_telemetry(telemetry))
    assert name == "telemetry" and protocol.decode_telemetry(payload) == telemetry


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("30.1904", 30.1904),
        ("30,1904", 30.1904),
        ("-0,2500", -0.25),
        ("\N{MINUS SIGN}0,2500", -0.25),
        ("1,234.5000", 1234.5),
        ("1.234,5000", 1234.5),
        ("1\N{NO-BREAK SPACE}234,5000", 1234.5),
        ("1'234.5000", 1234.5),
        ("7.8E-05", 7.8e-5),
        (12.5, 12.5),
        ("0", 0.0),
    ],
)
def test_numbers_of_any_locale_are_read(text, value):
    assert protocol.decode_number(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "fast", None, "NaN", "inf", [], {}, True, "9" * 65, [0] * 9])
def test_what_is_no_number_is_refused(text):
    with pytest.raises(ValueError):
        protocol.decode_number(text)


def parse_as_dotnet(text: str, *, decimal_comma: bool) -> float:
    """Read a number as float.Parse: separators of thousands are skipped, wherever they stand."""
    return float(text.replace(".", "").replace(",", ".") if decimal_comma else text.replace(",", ""))


@pytest.mark.parametrize("value", [-1.0, -0.3333333, -1e-7, 0.0, 0.25, 0.9999999, 1.0])
def test_the_simulator_reads_commands_right_in_its_own_locale(value):
    for decimal_comma in (False, True):
        text = protocol.encode_number(value, decimal_comma)
        assert parse_as_dotnet(text, decimal_comma=decimal_comma) == pytest.approx(value, abs=1e-6)
        assert float(text) == pytest.approx(value, abs=1e-6) and "," not in text
    assert parse_as_dotnet("0.25", decimal_comma=True) == 25  # why a point will not do there


@pytest.mark.parametrize(
    ("text", "event"),
    [
        ('42["telemetry",{"a":"b"}]', ("telemetry", {"a": "b"})),
        ('42["telemetry"]', ("telemetry", None)),
        ('4217["telemetry",null]', ("telemetry", None)),
        ('42/car,17["x",[1]]', ("x", [1])),
    ],
)
def test_events_are_understood(text, event):
    assert protocol.decode_event(text) == event


@pytest.mark.parametrize(
    "text",
    ["", "4", "42", "42{}", '42["telemetry"', "42[]", "42[1,2]", "43[1]", "x" * 10**6, "42" + "[" * 10**5, "42[NaN"],
    ids=lambda text: text[:16],
)
def test_what_is_no_event_is_refused_in_few_words(text):
    with pytest.raises(ValueError) as refusal:
        protocol.decode_event(text)
    assert len(str(refusal.value)) < 200


@pytest.mark.parametrize("payload", [None, {}])
def test_null_and_empty_telemetry_mean_that_a_human_drives(payload):
    assert protocol.decode_telemetry(payload) is None


@pytest.mark.parametrize("payload", [[], "text", 5, {"speed": "x", "image": 7}, {"image": None, "steering_angle": {}}])
def test_telemetry_that_says_nothing_is_not_a_human(payload):
    assert protocol.decode_telemetry(payload) == Telemetry()


@pytest.mark.parametrize(
    "text",
    [
        '42["telemetry",' + "9" * (1 << 22) + "]",
        "42" + "9" * (1 << 22),
        "42/" + "x" * (1 << 22),
        '42["telemetry",{"speed":[' + "[]," * (1 << 18) + "1]}]",
        '42["telemetry",{"speed":"' + "9" * (1 << 22) + '"}]',
    ],
    ids=["digits", "number", "namespace", "lists", "speed"],
)
def test_megabytes_of_rubbish_are_nothing_or_refused_in_few_words(text):
    try:  # as one number, four million digits would take minutes
        _, payload = protocol.decode_event(text)
        assert protocol.decode_telemetry(payload) == Telemetry()
    except ValueError as refusal:
        assert len(str(refusal)) < 200
