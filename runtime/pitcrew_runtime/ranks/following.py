"""How a pod that only holds ranks is seen to serve: by a port that opens once its leader is ready.

A probe finds it closed until then, so nobody counts the pod as part of a group that serves. A leader that
cannot be reached, as behind a NetworkPolicy, is taken to serve: its pods would never be counted else.
"""

import http.client
import logging
import socket
import threading
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

_PAUSE = 1.0
_PATIENCE = 2.0


def open_with_leader(leader: tuple[str, int], listen: Callable[[], socket.socket]) -> None:
    """Listen, in the background, once the leader at that address is ready; whoever calls is let go."""
    work = threading.Thread(target=_follow, args=(leader, listen), name="door", daemon=True)
    work.start()


def _follow(leader: tuple[str, int], listen: Callable[[], socket.socket]) -> None:
    while not _serves(leader):
        time.sleep(_PAUSE)
    with listen() as door:
        while True:
            door.accept()[0].close()


def _serves(leader: tuple[str, int]) -> bool:
    connection = http.client.HTTPConnection(*leader, timeout=_PATIENCE)
    try:
        connection.connect()
    except OSError as error:
        logger.warning("The leader's readiness cannot be asked at %s port %d: %s", *leader, error)
        return True
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
