"""The rig's checks, checked: each is shown a test that breaks its rule."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

import agent
from tests.rig.network import find_free_port

RunPytest = Callable[[str], pytest.RunResult]

CHECKOUT = Path(__file__).resolve().parent.parent

# Code counts as the program's by its file name.
PRETEND = f"""
import asyncio, subprocess, sys, threading, time
from pathlib import Path
import pytest

def of_the_program(source):
    names = {{}}
    exec(compile(source, {str(Path(agent.__path__[0]) / "pretend.py")!r}, "exec"), names)
    return names["code"]
"""

BROKEN_TESTS = """
async def test_sleeps():
    of_the_program("import time\\ndef code(): time.sleep(0.01)")()

async def test_reads_a_file(tmp_path):
    (tmp_path / "file").write_text("text")
    of_the_program("def code(path): path.read_bytes()")(tmp_path / "file")

async def test_opens_a_database(tmp_path):
    of_the_program("import sqlite3\\ndef code(path): sqlite3.connect(path)")(tmp_path / "db")

async def test_waits_for_a_thread():
    event = threading.Event()
    thread = threading.Thread(target=event.wait, args=(0.5,))
    thread.start()
    try:
        of_the_program("def code(thread): thread.join()")(thread)
    finally:
        event.set()

async def test_swallows_the_error():
    of_the_program('''
import time
def code():
    try:
        time.sleep(0.01)
    except Exception:
        pass
''')()

async def test_computes_for_too_long():
    end = time.thread_time() + 1.2
    while time.thread_time() < end:
        pass

async def test_leaves_a_task():
    global task
    task = asyncio.create_task(asyncio.sleep(30))

def test_leaves_a_process():
    global process
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
"""

SOUND_TESTS = """
@pytest.fixture(scope="module")
def process_of_the_module():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process

async def test_may_use_what_a_wider_fixture_started(process_of_the_module):
    assert process_of_the_module.poll() is None

async def test_blocks_in_a_thread(tmp_path):
    await asyncio.to_thread(of_the_program("import time\\ndef code(): time.sleep(0.01)"))

def test_blocks_without_a_loop():
    of_the_program("import time\\ndef code(): time.sleep(0.01)")()

async def test_reads_a_file_itself(tmp_path):
    (tmp_path / "file").write_text("text")
    assert (tmp_path / "file").read_text() == "text"

async def test_program_imports_starts_a_child_and_logs():
    code = of_the_program('''
import asyncio, logging, sys
async def code():
    import wave
    logging.getLogger().addHandler(handler := logging.StreamHandler(sys.stderr))
    try:
        raise ValueError("a reason")
    except ValueError:
        logging.getLogger().exception("it failed")
    logging.getLogger().removeHandler(handler)
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "print(1)", stdout=asyncio.subprocess.PIPE)
    return await child.communicate()
''')
    assert (await code())[0] == b"1\\n"

@pytest.mark.may_block("it is this test's subject")
async def test_is_marked():
    of_the_program("import time\\ndef code(): time.sleep(0.01)")()

async def test_task_ends_soon_after():
    global task
    task = asyncio.create_task(asyncio.sleep(0.05))
"""


@pytest.fixture
def run_pytest(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> RunPytest:
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    pytester.makeconftest((CHECKOUT / "tests" / "conftest.py").read_text())

    def run(tests: str) -> pytest.RunResult:
        file = pytester.makepyfile(PRETEND + tests)
        return pytester.runpytest_subprocess(
            *("-c", CHECKOUT / "pyproject.toml", "--rootdir", pytester.path),
            *("-p", "no:cacheprovider", "--tb=short", file),
        )

    return run


def test_tests_that_break_a_rule_fail(run_pytest: RunPytest) -> None:
    tests = re.findall(r"def (test_\w+)", BROKEN_TESTS)
    result = run_pytest(BROKEN_TESTS)
    result.stdout.fnmatch_lines_random([f"*ERROR at teardown of {test} *" for test in tests])
    # The error also ends the call itself, unless the program swallowed it.
    result.assert_outcomes(errors=len(tests), failed=4, passed=len(tests) - 4)


def test_sound_tests_pass(run_pytest: RunPytest) -> None:
    run_pytest(SOUND_TESTS).assert_outcomes(passed=SOUND_TESTS.count("def test_"))


def test_free_port_can_be_listened_on() -> None:
    with socket.create_server(("127.0.0.1", find_free_port())):
        pass
