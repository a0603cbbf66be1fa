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

from pitcrew_builder.graph.parts import layer_of

_PROGRAM = re.compile(rb"\nmain \{\n(.*?)\n\}", re.DOTALL)
_STATEMENT = re.compile(r"^  (\w+)=\{(.*?)(?=^  \w+=\{|\Z)", re.MULTILINE | re.DOTALL)
_LAYER = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_NAME = re.compile(r'\bname="?([^" ]+)')
_NUMBER = re.compile(r"_U\d+(?=\+|$)")
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


def by_block(launches: list[Launch]) -> dict[str, list[Launch]]:
    """Launches by block of the graph. One that names no node, a copy, belongs to its predecessor."""
    found: dict[str, list[Launch]] = {}
    block = ""
    for launch in launches:
        block = launch.block if launch.nodes else block
        found.setdefault(block, []).append(launch)
    return found


def within(node: str, block: str) -> str:
    """A node as its block sees it, so that layers which are computed alike are told alike.

    `inner | node` goes by what is inside, and the layer after the block's own is `next`.
    """
    inner, bar, _ = node.partition(" | ")
    if bar:
        return inner
    layer = layer_of(block)
    following = f"layers.{layer + 1}/" if layer is not None else ""
    if following and node.startswith(following):
        return f"next/{node.removeprefix(following)}"
    return node.removeprefix(f"{block}/")


def plain_name(name: str, block: str) -> str:
    """A kernel's name without the block and the running numbers that some are called by."""
    return _NUMBER.sub("", name.replace(f"{block}/", ""))


def _launches(text: str) -> list[Launch]:
    return [
        Launch(kind, name[1] if (name := _NAME.search(body)) else "", tuple(_LAYER.findall(body)))
        for kind, body in _STATEMENT.findall(text)
        if kind not in _ON_HOST
    ]
