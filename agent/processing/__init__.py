"""Calls what processes the changes of a database: webhooks, commands, Python entry points."""
