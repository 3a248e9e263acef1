"""The command line: `edge-agent`, one module per group of commands."""
