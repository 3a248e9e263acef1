"""Devices on serial ports: the links to them and the recording of what they say."""
