"""NMEA 0183: sentences, the logs of real receivers, and damage."""

from __future__ import annotations

import re
from functools import reduce
from operator import xor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_adapters import Adapter, Event, Reading, SettingsError, create
from firmware_adapters.nmea import MAX_SENTENCE
from tests.firmware_adapters.captures import receiver_logs
from tests.firmware_adapters.damage import Damage, damages
from tests.firmware_adapters.noise import kinds, readings, survive

RMC = "GPRMC,123519,A,4807.038,N,01131.000,W,022.4,084.4,230394,003.1,W"
GGA = "GNGGA,123519,4807.038,S,01131.000,E,1,08,0.9,545.4,M,46.9,M,,"
WIND = "IIMWV,084.0,R,10.4,N,A"


def make(*sentences: str) -> Adapter:
    return create("nmea", {"sentence": [*sentences]} if sentences else {})


def sentence(content: str) -> bytes:
    return b"$%s*%02X\r\n" % (content.encode(), reduce(xor, content.encode()))


def receive(*contents: str, adapter: Adapter | None = None) -> list[Reading | Event]:
    return (adapter or make()).receive(b"\n" + b"".join(map(sentence, contents)))


def values(items: list[Reading | Event]) -> dict[str, Any]:
    return {reading.sensor: (reading.value, reading.unit) for reading in readings(items)}


def test_position_and_time() -> None:
    items = receive(RMC)
    assert values(items) == {
        "RMC.lat": (pytest.approx(48.1173), "deg"),
        "RMC.lon": (pytest.approx(-11.516667), "deg"),
        "RMC.spd": (22.4, "kn"),
        "RMC.cog": (84.4, "deg"),
        "RMC.mv": (3.1, "deg"),
    }
    assert {reading.time for reading in readings(items)} == {"1994-03-23T12:35:19.000Z"}


def test_other_sentences_have_no_date() -> None:
    items = receive(GGA)
    assert values(items)["GGA.lat"] == (pytest.approx(-48.1173), "deg")
    assert values(items)["GGA.alt"] == (545.4, "m")
    assert values(items)["GGA.numSV"] == (8, None)
    assert {reading.time for reading in readings(items)} == {None}


def test_only_what_is_asked_for_is_recorded() -> None:
    assert receive(WIND, RMC, adapter=make("GGA")) == []
    assert values(receive(WIND, adapter=make("MWV")))["MWV.angle"] == (84.0, None)


@pytest.mark.parametrize(
    "content",
    [
        RMC.replace(",A,", ",V,"),
        GGA.replace("E,1,", "E,0,"),
        "GPRMC,,V,,,,,,,,,,N",
    ],
)
def test_without_a_fix_there_is_no_reading(content: str) -> None:
    assert kinds(receive(content)) == ["no-value"]
    assert readings(receive(content)) == []


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (sentence(RMC).replace(b"4807", b"4808"), "bad-crc"),
        (b"$" + RMC.encode() + b"\r\n", "cut-frame"),
        (sentence(RMC)[1:], "noise"),
        (sentence(RMC.replace("022.4", "x")), "malformed"),
        (sentence(RMC.replace("G", "\xff")), "noise"),
        (b"hello\r\n", "noise"),
        (b"$hello*62\r\n", "malformed"),
    ],
)
def test_what_is_no_sentence(line: bytes, kind: str) -> None:
    items = make().receive(b"\n" + line)
    assert (kinds(items), readings(items)) == ([kind], [])


def test_a_sentence_that_begins_in_another() -> None:
    items = make().receive(b"\n" + sentence(GGA)[:30] + sentence(RMC))
    assert items == receive(RMC)


def test_the_first_sentence_after_opening_may_be_cut() -> None:
    adapter = make()
    assert kinds(adapter.receive(sentence(RMC)[9:])) == ["cut-frame"]
    assert adapter.receive(sentence(RMC)) == receive(RMC)
    adapter.reset()
    assert adapter.receive(sentence(RMC)) == receive(RMC)


def _degrees(text: bytes, side: bytes) -> float:
    whole, minutes = divmod(float(text), 100)
    return (whole + minutes / 60) * (-1 if side in b"SW" else 1)


def test_logs_of_real_receivers() -> None:
    """Each good RMC sentence gives its position and time; each bad check value is noticed."""
    positions = 0
    damaged = 0
    for log in receiver_logs().values():
        lines = [line for line in log.split(b"\n") if line.startswith(b"$")]
        stream = b"\n" + b"\n".join(lines) + b"\n"
        expected = []
        wrong = 0
        for line in lines:
            match = re.fullmatch(rb"\$([ -~]*)\*([0-9A-Fa-f]{2})\s*", line)
            if match is None or b"$" in match[1] or len(line) > MAX_SENTENCE:
                continue
            if reduce(xor, match[1]) != int(match[2], 16):
                wrong += 1
                continue
            fields = match[1].split(b",")
            if re.fullmatch(rb"[A-Z]{2}RMC", fields[0]) and fields[2] == b"A" and fields[3]:
                expected.append(
                    (
                        _degrees(fields[3], fields[4]),
                        _degrees(fields[5], fields[6]),
                        _moment(fields[1].decode(), fields[9].decode()),
                    )
                )
        items = make("RMC").receive(stream)
        latitudes = [reading for reading in readings(items) if reading.sensor == "RMC.lat"]
        longitudes = [reading for reading in readings(items) if reading.sensor == "RMC.lon"]
        found = [
            (float(lat.value), float(lon.value), lat.time and lat.time[:19])
            for lat, lon in zip(latitudes, longitudes, strict=True)
        ]
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert one[:2] == pytest.approx(other[:2], abs=1e-8)
            assert one[2] == other[2]
        assert kinds(items).count("bad-crc") == wrong
        positions += len(found)
        damaged += wrong
    assert positions > 1900
    assert damaged > 10


def _moment(clock: str, day: str) -> str | None:
    if not re.fullmatch(r"\d{6}", day):  # one receiver sends 2208-1
        return None
    century = 19 if int(day[4:]) > 68 else 20
    date = f"{century}{day[4:]}-{day[2:4]}-{day[:2]}"
    return f"{date}T{clock[:2]}:{clock[2:4]}:{clock[4:6]}"


CONTENTS = st.builds(
    "GPRMC,1200{:02d},A,{:09.4f},N,{:010.4f},E,{:.1f},084.4,230394,,".format,
    st.integers(0, 59),
    st.floats(0, 8959),
    st.floats(0, 17959),
    st.floats(0, 99),
)


@given(st.lists(CONTENTS, min_size=1, max_size=6), damages(), st.data())
def test_damage(contents: list[str], damage: Damage, data: st.DataObject) -> None:
    stream = damage(b"\n" + b"".join(map(sentence, contents)))
    # The check value is weak: what counts is that it was it that was deceived.
    deceived = any(
        sentence(content).strip().lower() == piece.strip().lower() and content not in contents
        for line in stream.split(b"\n")
        for piece in [b"$" + line.strip(b" \t\r").rpartition(b"$")[2]]
        for content in [piece[1:].rpartition(b"*")[0].decode("latin-1")]
        if content.isascii() and content
    )
    items = survive(make, stream, data, MAX_SENTENCE)
    if not deceived:
        good = readings(receive(*contents))
        assert all(reading in good for reading in readings(items))


FRAGMENTS = st.sampled_from(
    ["GPRMC", "GPGSV", "PGRME", "1", "", "A", "-9", "4807.1", "N", "x", "²"]
)


@given(st.lists(FRAGMENTS, max_size=24), st.binary(max_size=600), st.data())
def test_anything_may_arrive(fragments: list[str], noise: bytes, data: st.DataObject) -> None:
    stream = b"\n" + noise + b"\n"
    content = ",".join(fragments)
    if content:
        stream += sentence(content)
    for kind in ("RMC", "GSV"):
        survive(lambda kind=kind: make(kind), stream, data, MAX_SENTENCE)  # type: ignore[misc]


def test_settings_and_commands() -> None:
    with pytest.raises(SettingsError, match="sentence"):
        make("GPRMC")
    with pytest.raises(ValueError, match="no commands"):
        make().encode({"rate": 1})
