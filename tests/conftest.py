"""What every test needs."""

import asyncio
import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Some tests import ONNX Runtime before anything of ours tells it to keep its usage data.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# How long an example takes says more about the machine's other guests than about the code. A gate
# judges the change alone, so it tries the same examples each time; everybody else tries new ones.
settings.register_profile("pitcrew", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("pitcrew")


@pytest.fixture(scope="session", autouse=True)
def _main_thread_loop() -> Iterator[None]:
    """An event loop that somebody closes.

    pytest-asyncio asks for the main thread's loop before each async test. Python 3.11 makes one on
    demand, which nobody would close; its warning would then fail a test that has no part in it.
    """
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()
