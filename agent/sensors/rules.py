"""What is done with the readings of each sensor, as it is configured."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import translate

import msgspec

from agent.config_sensors import SensorConfig
from agent.sensors.alarms import Threshold
from agent.sensors.calibration import Calibration
from agent.sensors.reporting import Deadband


class Rule(msgspec.Struct, frozen=True):
    """What is done with a sensor's readings."""

    unit: str | None
    calibration: Calibration
    deadband: Deadband | None
    thresholds: tuple[Threshold, ...]
    pack: int | None
    """The length of windows, in microseconds."""

    @classmethod
    def of(cls, config: SensorConfig) -> Rule:
        return cls(
            config.unit,
            Calibration.of(config),
            Deadband.of(config),
            tuple(Threshold.of(alarm) for alarm in config.alarm),
            None if config.pack is None else round(1_000_000 * config.pack),
        )

    @property
    def has_state(self) -> bool:
        """Whether the sensor's last readings have to be remembered for it."""
        return self.deadband is not None or bool(self.thresholds)


_DEFAULT = Rule.of(SensorConfig("*"))
"""Readings are stored as they come."""


class Rules:
    """The rules of one device: for each sensor the first one whose pattern matches its name."""

    def __init__(self, tables: Iterable[SensorConfig] = ()) -> None:
        self._rules = [(re.compile(translate(table.name)), Rule.of(table)) for table in tables]

    def of(self, sensor: str) -> Rule:
        for name, rule in self._rules:
            if name.match(sensor):
                return rule
        return _DEFAULT
