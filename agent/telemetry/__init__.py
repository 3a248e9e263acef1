"""Readings for others on an MQTT broker, as plain JSON, and for Home Assistant."""
