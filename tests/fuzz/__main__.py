"""`python -m tests.fuzz`: the fuzzer for as long as one likes, with other data each time."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.agents import hub
from tests.fuzz import description
from tests.fuzz.fuzzer import Fuzzer
from tests.fuzz.target import Target

_EXAMPLES = 25
"""Requests of an operation before the next one has its turn."""


def main() -> int:
    """Returns the number of operations that failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    arguments = parser.parse_args()
    routes = list(description.routes(description.load()))
    end = time.monotonic() + 60 * arguments.minutes
    start = arguments.seed
    failed = set()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        data = Path(folder, "data")
        with hub(data) as process:
            target = Target(process, process.wait_until_ready(), data)
            fuzzer = Fuzzer(target)
            while time.monotonic() < end:
                for method, path in routes:
                    target.prepare()
                    try:
                        fuzzer.run(method, path, examples=_EXAMPLES, start=start)
                    except AssertionError as error:
                        failed.add((method, path))
                        print(f"{method} {path} --seed {start}\n    {error}", flush=True)
                    if not process.running:
                        print(process.log)
                        return len(failed) + 1
                start += 1
            growth = target.growth
            target.check_to_the_end()
    print(
        f"{start - arguments.seed} rounds, {len(routes)} operations, {len(failed)} failed; "
        f"the hub grew by {growth:.0f} MiB"
    )
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
