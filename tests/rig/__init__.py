"""What every test stands on: the checks around each test, and small helpers."""
