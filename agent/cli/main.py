"""The entry point: `edge-agent`."""

from __future__ import annotations

import importlib
import logging
import time
from collections import Counter
from typing import Any

import click

from agent import __version__
from agent.cli.options import print_json_error, remember_json
from agent.errors import EdgeAgentError
from agent.resources import importing, prepare

# Imported when they are used: no command waits for, or holds in memory, what another one needs.
# Hence what each is for, too: to list them imports none.
_COMMANDS = {
    "init": ("agent.cli.init", "Make a configuration file by a few questions."),
    "run": ("agent.cli.run", "Run the agent on a gateway: record, replicate, serve."),
    "hub": ("agent.cli.run", "Run a hub: a CouchDB-compatible server for gateways."),
    "bridge": ("agent.cli.bridge", "Let gateways on an MQTT broker replicate with CouchDB."),
    "replicate": ("agent.cli.replicate", "Copy what SOURCE has and TARGET lacks."),
    "verify": ("agent.cli.verify", "Compare two databases, and repair what differs."),
    "status": ("agent.cli.status", "Show what a running agent is doing."),
    "top": ("agent.cli.top", "Watch a running agent in the terminal."),
    "hooks": ("agent.cli.hooks", "See what hooks do, and deal with what they gave up."),
    "doctor": ("agent.cli.doctor", "Look for what commonly goes wrong, and say how to mend it."),
    "ports": ("agent.cli.ports", "List the serial ports, and what speaks on them."),
    "sensors": ("agent.cli.sensors", "Look at what the sensors of a running agent say."),
    "conflicts": ("agent.cli.conflicts", "Look at conflicts in a running agent, and resolve them."),
    "flash": ("agent.cli.flash", "Put the reference firmware onto a board."),
    "device": ("agent.cli.device", "Show and change how devices are set."),
    "config": ("agent.cli.config", "Check the configuration file."),
    "user": ("agent.cli.user", "Add users who may log in to the server."),
}


_MINUTE = 60.0
_MOST_OF_A_KIND = 60


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _ = _COMMANDS[cmd_name]
        with importing():
            command = getattr(importlib.import_module(module), f"{cmd_name}_command")
        assert isinstance(command, click.Command)  # noqa: S101
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, what) for name, (_, what) in _COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        wants_json = "--json" in ctx.args
        try:
            return super().invoke(ctx)
        except EdgeAgentError as error:
            print_json_error(ctx, str(error))
            raise click.ClickException(_shown(str(error))) from None
        except click.UsageError as error:
            if wants_json:  # which the command may not have got to read
                remember_json(ctx)
            print_json_error(ctx, error.format_message())
            raise


def _shown(text: str) -> str:
    """An error may quote what comes from elsewhere; a terminal obeys control characters."""
    return "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in text)


class _OneLine(logging.Formatter):
    """A message may quote what comes from elsewhere, too; a traceback has its lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return _shown(super().formatMessage(record)).replace("\n", " ")


class _NoFlood(logging.Filter):
    """Lets so many warnings of a kind pass in a minute: who can cause one, such as by failing to
    log in, could cause any number, and fill the disk or wear the card out."""

    def __init__(self) -> None:
        super().__init__()
        self._passed: Counter[tuple[str, str]] = Counter()
        self._until = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True  # somebody has asked for all of it
        now = time.monotonic()
        if now >= self._until:
            self._passed.clear()
            self._until = now + _MINUTE
        kind = record.name, str(record.msg)
        self._passed[kind] += 1
        if self._passed[kind] == _MOST_OF_A_KIND:
            record.msg = f"{record.msg} (more of this kind are left out, for a minute)"
        return self._passed[kind] <= _MOST_OF_A_KIND


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edge-agent")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="warning",
    show_default=True,
    help="What to log on standard error.",
)
def main(log_level: str) -> None:
    """Reads sensors, keeps everything in a local store, replicates it both ways."""
    handler = logging.StreamHandler()
    handler.addFilter(_NoFlood())
    handler.setFormatter(_OneLine("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=log_level.upper(), handlers=[handler])


def run() -> None:
    """What the command `edge-agent` is: `main`, in a process of its own."""
    prepare()
    main(prog_name="edge-agent")


if __name__ == "__main__":
    run()
