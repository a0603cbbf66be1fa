"""A pod that follows: runs its ranks for the leader of the group, and ends with it.

The first of its ranks that ends, or the loss of the leader, ends the pod with an exit code other
than 0, so that it is started anew. Told to stop, it goes on until the leader has drained.
"""

import contextlib
import logging
import os
import select
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from types import FrameType

from pitcrew_builder.manifest import Manifest
from pitcrew_runtime.engine_directory import EngineDirectory
from pitcrew_runtime.errors import GroupLost
from pitcrew_runtime.ranks.handshake import Badge, send_words
from pitcrew_runtime.ranks.launch import GroupShape, ending, start
from pitcrew_runtime.ranks.meeting import Meeting, follow, lead
from pitcrew_runtime.ranks.pods import Pods, crossing

logger = logging.getLogger(__name__)


def badge_of(manifest: Manifest, pods: Pods) -> Badge:
    """What the members of a group compare."""
    return Badge(
        manifest.engine_id,
        manifest.world_size,
        pods.count,
        pods.ranks_each,
        pods.token,
        pods.tls is not None,
    )


def meet(manifest: Manifest, pods: Pods, adapter_slots: int) -> Meeting:
    """Bring the group together, as its leader. Raises `RankFailed`."""
    pairs = sorted(crossing(manifest.ranks, pods))
    return lead(pods, badge_of(manifest, pods), pairs, adapter_slots)


def serve_pod(
    directory: EngineDirectory,
    pods: Pods,
    threads: int,
    drain_seconds: float,
    joined: Callable[[], None],
) -> None:
    """Run the ranks of this pod until the leader ends the group after a signal to stop.

    `joined` is called once the group has come together. Raises `RankFailed` where it does not,
    `GroupLost` where it is lost.
    """
    manifest = directory.manifest
    pairs = sorted(crossing(manifest.ranks, pods))
    meeting = follow(pods, badge_of(manifest, pods), pairs)
    logger.info("Pod %d of %d: ranks %s", pods.index, pods.count, list(pods.ranks))
    shape = GroupShape(
        engine=directory.root,
        ranks=manifest.ranks,
        page_size=manifest.identity.shapes.kv_page_size,
        adapter_slots=meeting.adapter_slots,
        threads=max(1, threads // pods.ranks_each),
        tls=pods.tls,
    )
    joined()
    peers = {rank: meeting.peers(rank) for rank in pods.ranks}
    processes = dict(start(shape, meeting.ranks, peers))
    try:
        _watch(meeting, processes, drain_seconds)
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


def _watch(
    meeting: Meeting, processes: Mapping[int, "subprocess.Popen[bytes]"], drain_seconds: float
) -> None:
    leader = meeting.pods[0]
    with _told_to_stop() as stopping:
        poll = select.poll()
        ends = {os.pidfd_open(process.pid): rank for rank, process in processes.items()}
        for descriptor in (*ends, leader.fileno(), stopping):
            poll.register(descriptor, select.POLLIN)
        stopped = False
        while True:
            events = poll.poll(drain_seconds * 1000 if stopped else None)
            found = [descriptor for descriptor, _ in events]
            if not found or (leader.fileno() in found and stopped):
                return
            if leader.fileno() in found:
                raise GroupLost("the leader ended the group; its log tells why")
            if stopping in found:
                os.read(stopping, 64)
                stopped = True
                continue
            rank = ends[found[0]]
            why = f"rank {rank} {ending(processes[rank].wait())}"
            # A rank that lost its leader ends too: then nobody reads this.
            _say(leader, why)
            if stopped:
                return
            raise GroupLost(why)


def _say(leader: socket.socket, why: str) -> None:
    with contextlib.suppress(OSError):
        send_words(leader, {"lost": why})


@contextlib.contextmanager
def _told_to_stop() -> Iterator[int]:
    """A descriptor that can be read once a signal to stop has come."""
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def tell(number: int, frame: FrameType | None) -> None:
        os.write(writing, b"!")

    before = {one: signal.signal(one, tell) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield reading
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reading)
        os.close(writing)
