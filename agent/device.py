"""A configured device: its link, its adapter, its recorder and its settings."""

from __future__ import annotations

import asyncio
import contextlib

from agent.config import AgentConfig, DeviceConfig
from agent.errors import StoreWriteError
from agent.parts import adapter_for
from agent.sensors.clock import AgentClock
from agent.sensors.device_settings import DeviceSettings
from agent.sensors.link import SerialLink
from agent.sensors.opening import LineFormat
from agent.sensors.polling import Polling
from agent.sensors.recorder import Recorder
from agent.sensors.rules import Rules
from agent.store.store import Store
from firmware_adapters import PollingAdapter

_LAST_WRITE = 5.0
"""Seconds that the last readings get to become durable when the agent stops."""


class Device:
    """What listens to a device, records what it says, and tells it what is desired."""

    def __init__(
        self,
        config: DeviceConfig,
        store: Store,
        agent: AgentConfig,
        clock: AgentClock | None = None,
    ) -> None:
        """Without a `clock` the system's is taken.

        Raises ConfigError for an adapter that does not exist.
        """
        self.config = config
        line = LineFormat(config.data_bits, config.parity, config.stop_bits, config.rs485)
        self.link = SerialLink(config.port, config.baud, line=line)
        adapter = adapter_for(config)
        self.settings = DeviceSettings(
            store,
            agent.name,
            config.name,
            adapter,
            self.link,
            allowed=config.commands,
            sent=self._stir,
            clock=clock,
        )
        self.recorder = Recorder(
            store,
            config.name,
            adapter,
            self.link.send,
            Rules(config.sensor),
            agent.commit_interval,
            self.settings.hear,
            clock,
            tells_time=config.clock,
        )
        self.polling: Polling | None = None
        if isinstance(adapter, PollingAdapter):
            self.polling = Polling(adapter, self.link, self.recorder.note)

    async def run_link(self) -> None:
        await self.link.run(self._received, self._opened)

    def _opened(self) -> None:
        self.recorder.port_opened()
        self.settings.port_opened()
        self._stir()

    async def _received(self, data: bytes) -> None:
        await self.recorder.feed(data)
        self._stir()

    def _stir(self) -> None:
        """There may be something to ask."""
        if self.polling is not None:
            self.polling.stir()

    async def store_the_rest(self) -> None:
        """Wait until what was read is durable. Raises StoreWriteError when it is lost."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WRITE):
                await self.recorder.drain()
        if self.recorder.waiting:
            raise StoreWriteError(
                f"device {self.config.name!r}: {self.recorder.waiting} readings are lost, "
                f"the store did not take them: {self.recorder.last_error}"
            )
