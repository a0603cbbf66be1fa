"""Manifests that somebody got wrong: valid ones, changed in one to three places.

Deterministic in the seed, so that a manifest can be named by its number.
"""

import copy
import random
from collections.abc import Iterator
from typing import Any

Document = dict[str, Any]
Path = tuple[str | int, ...]

WRONG_VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1 << 31,
    1 << 63,
    3.5,
    "",
    " ",
    "x" * 5000,
    "UPPER",
    "../../etc/passwd",
    "a\nb",
    "-leading",
    "trailing.",
    "\u202efdp.exe",
    "模型",
    "🏎",
    "{{ .Values }}",
    "$(PITCREW)",
    "9999999999999999999Gi",
    [],
    {},
    [[]],
    {"unexpected": 1},
    ["x"] * 200,
)
"""What stands where something else should."""

ADDED: tuple[Document, ...] = (
    {"unknownField": 1},
    {"replicas": 3, "autoscaling": {}},
    {"model": {"huggingFace": {"repo": "a/b"}, "volume": {"claimName": "c", "path": "p"}}},
    {"model": {}},
    {"worldSize": 3},
    {"parallelism": {"tensor": 7, "pipeline": 5, "expert": 3}},
    {"target": "tensorrt"},
    {"quantization": {"weights": "int4", "method": "gptq"}},
    {"quantization": {"weights": "int3"}},
    {"rebuildPolicy": {"mode": "Window"}},
    {"rebuildPolicy": {"mode": "Window", "window": {"start": "25:00", "end": "now"}}},
    {"store": {"claimName": "x", "s3": {"bucket": "y"}}},
    {"shapes": {"maxBatchSize": 1 << 40}},
    {"runtime": {"kvMemory": "lots"}},
    {"runtime": {"resources": {"limits": {"nvidia.com/gpu": "two"}}}},
    {"engineRef": {"name": "absent", "version": "zzzz"}},
    {"engineRef": None},
)
"""Fields that contradict, or that no such object has."""


def mutated(base: Document, seed: int) -> Document:
    """The base with up to three faults in its spec, and another name."""
    random_ = random.Random(seed)
    document = copy.deepcopy(base)
    document["metadata"] = {**document["metadata"], "name": f"mutant-{seed}"}
    for _ in range(random_.randint(1, 3)):
        _mutate(document["spec"], random_)
    return document


def _mutate(spec: Document, random_: random.Random) -> None:
    paths = list(_paths(spec))
    if not paths or random_.random() < 0.25:
        spec.update(copy.deepcopy(random_.choice(ADDED)))
        return
    *way, last = random_.choice(paths)
    holder: Any = spec
    for key in way:
        holder = holder[key]
    if random_.random() < 0.15:
        del holder[last]
    else:
        holder[last] = copy.deepcopy(random_.choice(WRONG_VALUES))


def _paths(value: Any, way: Path = ()) -> Iterator[Path]:  # noqa: ANN401 (any JSON value)
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        yield (*way, key)
        yield from _paths(inner, (*way, key))
