"""The edge sync agent: sensors in, a durable local store, replication both ways."""

__version__ = "0.1.0"
