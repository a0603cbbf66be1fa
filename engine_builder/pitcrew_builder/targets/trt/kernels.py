"""What a plan launches, read from the plan.

A plan compiled with detailed profiling holds, as text, the program of each optimization profile:

    main {
      function={ name=__myl_SiluMul … layers="[ONNX Layer: layers.0/silu]…" }
      fully_connected={ name="…" … }
      signal={ … }

Every statement but the synchronization of streams and work on the host is one kernel launch. The
engine inspector tells the same, but only on a GPU. The text is no documented format: where it is
not found, or not as expected, nothing is told.
"""

import re
from collections import Counter
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path

_PROGRAM = re.compile(rb"\nmain \{\n(.*?)\n\}", re.DOTALL)
_STATEMENT = re.compile(r"^  (\w+)=\{(.*?)(?=^  \w+=\{|\Z)", re.MULTILINE | re.DOTALL)
_LAYER = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_NAME = re.compile(r'\bname="?([^" ]+)')
_ON_HOST = frozenset({"signal", "wait", "shape_call"})
_WHOLE = b"\n  function={"
"""Programs without it are parts of one kernel, among which it chooses when it runs."""


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel launch and the graph's nodes that it computes, as `node` or `inner | node`."""

    kind: str
    name: str
    nodes: tuple[str, ...]

    @property
    def block(self) -> str:
        """The outermost scope that most of its nodes lie in, such as `layers.0`."""
        scopes = Counter(block_of(node) for node in self.nodes)
        return scopes.most_common(1)[0][0] if scopes else ""


def block_of(node: str) -> str:
    """The outermost scope of a node, of `inner | node` too; empty for a node in no scope."""
    scope, slash, _ = node.rpartition(" | ")[2].partition("/")
    return scope if slash else ""


def node_of(metadata: str) -> str:
    """The node that a layer's metadata names; empty where it names none."""
    found = _LAYER.search(metadata)
    return found[1] if found else ""


def programs(plan: Path) -> list[list[Launch]]:
    """The launches of each profile in order; empty where the plan does not tell."""
    if not plan.stat().st_size:
        return []
    # Mapped: a plan holds all weights.
    with plan.open("rb") as stream, mmap(stream.fileno(), 0, access=ACCESS_READ) as content:
        texts = [match[1] for match in _PROGRAM.finditer(content) if _WHOLE in match[1]]
    return [_launches(text.decode(errors="replace")) for text in texts]


def by_block(launches: list[Launch]) -> dict[str, int]:
    """Launches per block of the graph. One that names no node, a copy, belongs to its predecessor."""
    counts: Counter[str] = Counter()
    block = ""
    for launch in launches:
        block = launch.block if launch.nodes else block
        counts[block] += 1
    return dict(counts)


def _launches(text: str) -> list[Launch]:
    return [
        Launch(kind, name[1] if (name := _NAME.search(body)) else "", tuple(_LAYER.findall(body)))
        for kind, body in _STATEMENT.findall(text)
        if kind not in _ON_HOST
    ]
