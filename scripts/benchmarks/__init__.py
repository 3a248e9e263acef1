"""Benchmarks, one module each; `scripts/bench` runs them.

A new one is a module with `async def run(options: Options) -> list[Row]` and an entry in
`__main__.BENCHES`.
"""
