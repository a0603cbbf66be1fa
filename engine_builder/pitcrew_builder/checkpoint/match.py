"""Whether the weights are the ones that the configuration speaks of."""

import re
from collections.abc import Iterable, Mapping

from pitcrew_builder.checkpoint.reader import READABLE
from pitcrew_builder.checkpoint.safetensors import TensorInfo
from pitcrew_builder.errors import CheckpointCorrupt
from pitcrew_builder.graph.recipe import TensorRef

SHOWN = 4


def check_match(
    wanted: Iterable[TensorRef], found: Mapping[str, TensorInfo], ignored: Iterable[str]
) -> None:
    """Refuse missing, misshapen, unreadable and unexplained tensors, naming the first of each."""
    refs = {ref.name: ref for ref in wanted}
    present = [(ref, found[name]) for name, ref in refs.items() if name in found]
    problems = [
        _listed(
            "missing", [f"{r.name} {list(r.shape)}" for r in refs.values() if r.name not in found]
        ),
        _listed(
            "of another shape",
            [
                f"{ref.name} (config.json implies {list(ref.shape)}, found {list(info.shape)})"
                for ref, info in present
                if ref.shape != info.shape
            ],
        ),
        _listed(
            "of another type",
            [
                f"{ref.name} ({info.dtype}, not {' or '.join(_types(ref))})"
                for ref, info in present
                if info.dtype not in _types(ref)
            ],
        ),
        _listed("unexpected", _leftover(found, refs, tuple(ignored))),
    ]
    told = "; ".join(problem for problem in problems if problem)
    if told:
        raise CheckpointCorrupt(
            f"config.json and the weights contradict each other: {told}; take both from the same "
            f"revision of the checkpoint"
        )


def _types(ref: TensorRef) -> tuple[str, ...]:
    return ref.packed or tuple(READABLE)


def _leftover(
    found: Mapping[str, TensorInfo], refs: Mapping[str, TensorRef], ignored: tuple[str, ...]
) -> list[str]:
    patterns = [re.compile(pattern) for pattern in ignored]
    return [
        f"{name} {list(info.shape)}"
        for name, info in found.items()
        if name not in refs and not any(pattern.fullmatch(name) for pattern in patterns)
    ]


def _listed(title: str, items: list[str]) -> str:
    if not items:
        return ""
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return f"{len(items)} tensors are {title}: {', '.join(items[:SHOWN])}{more}"
