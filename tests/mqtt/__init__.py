"""MQTT, through a real Mosquitto."""
