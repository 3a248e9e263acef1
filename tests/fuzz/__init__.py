"""A fuzzer of the whole HTTP API, made of its description in docs/openapi.yaml.

`python -m tests.fuzz --minutes 10` runs it for longer than the tests do.
"""
