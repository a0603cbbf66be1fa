"""A reference driver of split engines, written from the texts of `manifest.py` alone.

From outside it looks like the session of a graph that is not split. Every step of every rank is
kept, so that a rank that reads another rank's value finds nothing there.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime

from tests.golden.stacks import Stacks, part_of

Tensor = npt.NDArray[Any]


class Named(NamedTuple):
    """An output, as sessions list them."""

    name: str


class Session(Protocol):
    """What a driver needs of ONNX Runtime."""

    def get_outputs(self) -> list[Any]: ...

    def run(self, names: list[str], inputs: dict[str, Tensor]) -> list[Tensor]: ...


class SplitSession:
    """All ranks of an engine, stage after stage and segment after segment."""

    def __init__(self, path: Path, manifest: Mapping[str, Any]) -> None:
        self._ranks = manifest["ranks"]
        self._layers = range(manifest["model"]["layers"])
        self.stacks: Stacks = {}
        """Adapters, of which each rank is fed its own part."""
        self._open = {
            file: onnxruntime.InferenceSession(str(path / file), providers=["CPUExecutionProvider"])
            for rank in self._ranks
            for file in _files(rank)
        }

    def get_outputs(self) -> list[Any]:
        kinds = [f"new_{kind}.{layer}" for kind in ("keys", "values") for layer in self._layers]
        return [Named(name) for name in ["logits", *kinds]]

    def run(self, names: list[str], inputs: dict[str, Tensor]) -> list[Tensor]:
        held: list[dict[str, Tensor]] = [self._given(rank, inputs) for rank in self._ranks]
        stages = sorted({rank["placement"]["pipeline"] for rank in self._ranks})
        for stage in stages:
            members = [i for i, r in enumerate(self._ranks) if r["placement"]["pipeline"] == stage]
            self._take_rows(members, held)
            for step in range(len(_files(self._ranks[members[0]]))):
                for index in members:
                    self._compute(_files(self._ranks[index])[step], held[index])
                for index in members:
                    for exchange in _exchanges(self._ranks[index], step):
                        _exchange(index, exchange, held)
        return [held[-1][name] if name == "logits" else self._whole(name, held) for name in names]

    def _given(self, rank: Mapping[str, Any], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        place = rank["placement"]
        layers = range(place["firstLayer"], place["firstLayer"] + place["layers"])
        given = {name: value for name, value in inputs.items() if "_pool." not in name}
        for kind in ("key", "value"):
            for layer in layers:
                pool = inputs[f"{kind}_pool.{layer}"]
                last = place["firstKvHead"] + place["kvHeads"]
                given[f"{kind}_pool.{layer}"] = pool[:, :, place["firstKvHead"] : last].copy()
        return given | part_of(rank, self.stacks)

    def _take_rows(self, members: list[int], held: list[dict[str, Tensor]]) -> None:
        for index in members:
            place = self._ranks[index]["placement"]
            for other, rank in enumerate(self._ranks):
                theirs = rank["placement"]
                same = all(theirs[key] == place[key] for key in ("tensor", "expert"))
                if same and theirs["firstLayer"] + theirs["layers"] == place["firstLayer"]:
                    name = f"rows.{place['firstLayer']}"
                    held[index][name] = held[other][name]

    def _compute(self, file: str, values: dict[str, Tensor]) -> None:
        session = self._open[file]
        names = [output.name for output in session.get_outputs()]
        feeds = {item.name: values[item.name] for item in session.get_inputs()}
        values |= zip(names, session.run(names, feeds), strict=True)

    def _whole(self, name: str, held: list[dict[str, Tensor]]) -> Tensor:
        """New keys or values of all heads; heads that several ranks have are equal on all."""
        parts: dict[int, Tensor] = {}
        for rank, values in zip(self._ranks, held, strict=True):
            first = rank["placement"]["firstKvHead"]
            if name in values:
                np.testing.assert_array_equal(values[name], parts.setdefault(first, values[name]))
        return np.concatenate([parts[first] for first in sorted(parts)], axis=2)


def _files(rank: Mapping[str, Any]) -> list[str]:
    return [segment["graph"] for segment in rank["segments"]] or [rank["graph"]]


def _exchanges(rank: Mapping[str, Any], step: int) -> list[Mapping[str, Any]]:
    return rank["segments"][step]["exchanges"] if rank["segments"] else []


def _exchange(index: int, exchange: Mapping[str, Any], held: list[dict[str, Tensor]]) -> None:
    assert index in exchange["group"]
    given = [held[rank][exchange["value"]] for rank in exchange["group"]]
    gather = exchange["operator"] == "AllGather"
    joined = np.concatenate(given, axis=-1) if gather else np.sum(given, axis=0, dtype=np.float32)
    held[index][exchange["result"]] = joined
