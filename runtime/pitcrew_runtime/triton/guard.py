"""Watches the engine of a model, and does what was asked for when it cannot go on.

The Python backend has no word for a model that is not ready any more, and starts no process anew
that ends: the server would go on to call the model ready. So either each request is told of the
fault, or the server itself is told to end, for whoever keeps it running to start it anew.
"""

import asyncio
import logging
import os
import signal
from enum import StrEnum
from pathlib import Path

from pitcrew_runtime.errors import InvalidOption
from pitcrew_runtime.frontend import Frontend

logger = logging.getLogger(__name__)

SERVER = "tritonserver"
_LOOK_SECONDS = 1.0


class OnFault(StrEnum):
    """What is done about an engine that is lost or hangs."""

    TELL = "tell"
    """Every request is answered `UNAVAILABLE`, with the reason."""
    END_SERVER = "end-server"
    """And the server is told to end."""


def chosen(text: str) -> OnFault:
    """Raises `InvalidOption`."""
    try:
        return OnFault(text)
    except ValueError:
        raise InvalidOption(f"on-fault: {text!r} is none of {', '.join(OnFault)}") from None


async def keep(frontend: Frontend, on_fault: OnFault) -> None:
    """Watch until there is nothing left to do about it."""
    while not frontend.draining:
        if (trouble := frontend.trouble()) is not None:
            logger.error("The model cannot go on: %s", trouble)
            if on_fault is OnFault.END_SERVER:
                end_server(os.getppid())
            return
        await asyncio.sleep(_LOOK_SECONDS)


def end_server(parent: int) -> None:
    """Tell Triton to end, if it is what started this process."""
    if Path(f"/proc/{parent}/comm").read_text().strip() != SERVER:
        logger.error("Process %d is no %s; end it by hand", parent, SERVER)
        return
    logger.warning("Ending the server, as on-fault=%s asks", OnFault.END_SERVER)
    os.kill(parent, signal.SIGTERM)
