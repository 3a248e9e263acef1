"""`python -m agent` is `edge-agent`."""

from agent.cli.main import main

main(prog_name="edge-agent")
