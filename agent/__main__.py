"""`python -m agent` is `edge-agent`."""

from agent.cli.main import run

run()
