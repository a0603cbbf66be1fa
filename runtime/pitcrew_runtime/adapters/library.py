"""The adapters that clients may name, in memory of a bounded size.

Loading and unloading change what new requests find. Requests that are under way hold the adapter
itself, so it stays until the last of them ends, and counts until then.
"""

import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakSet

from pitcrew_builder.checkpoint.directory import Directory
from pitcrew_runtime.adapters.reading import read_adapter
from pitcrew_runtime.adapters.weights import LoraWeights, Room
from pitcrew_runtime.errors import AdapterConflict, InvalidRequest, ModelNotFound

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}")


@dataclass(frozen=True, slots=True)
class Loaded:
    """An adapter under its name."""

    name: str
    weights: LoraWeights
    since: int
    """Unix time, in seconds."""


class AdapterLibrary:
    """Adapters by name. May be used from any thread."""

    def __init__(self, room: Room, capacity: int, base: str) -> None:
        """`capacity` adapters at most are in memory; `base` is the name of the network itself."""
        self._room = room
        self._capacity = capacity
        self._base = base
        self._loaded: dict[str, Loaded] = {}
        self._alive: WeakSet[LoraWeights] = WeakSet()
        self._lock = threading.Lock()
        # Reading takes as long as the disk does; whoever only looks a name up need not wait for it.
        self._reading = threading.Lock()

    @property
    def loaded(self) -> Sequence[Loaded]:
        """In the order in which they came."""
        with self._lock:
            return list(self._loaded.values())

    def find(self, name: str) -> LoraWeights | None:
        """The adapter of that name; None where there is none."""
        with self._lock:
            found = self._loaded.get(name)
        return found.weights if found else None

    def load(self, name: str, directory: Directory, *, replace: bool = False) -> Loaded:
        """Read an adapter and give it a name. The same adapter once more changes nothing.

        With `replace`, requests to come find the new weights under a name that is taken. Raises
        `InvalidRequest` for the name, `InvalidAdapter` for the files, or `AdapterConflict` where
        the name or the memory is taken.
        """
        self._check_name(name)
        with self._reading:
            self._check_memory(name, replace=replace)
            weights = read_adapter(directory, self._room)
            with self._lock:
                known = self._loaded.get(name)
                if known is not None and known.weights.identity == weights.identity:
                    return known
                if known is not None and not replace:
                    raise AdapterConflict(
                        f"lora_name: {name!r} is loaded already, with other weights; unload it "
                        f"first, choose another name, or send load_inplace: true",
                        param="lora_name",
                    )
                return self._add(name, weights)

    def unload(self, name: str) -> None:
        """Forget a name. Raises `ModelNotFound`."""
        with self._lock:
            if self._loaded.pop(name, None) is None:
                raise ModelNotFound(
                    f"lora_name: the adapter {name[:200]!r} is not loaded here", param="lora_name"
                )

    def _check_name(self, name: str) -> None:
        if not _NAME.fullmatch(name) or name == self._base:
            raise InvalidRequest(
                f"lora_name: {name[:200]!r} is no name for an adapter; give letters, digits and "
                f"._:/-, 128 at most, other than the model's own {self._base!r}",
                param="lora_name",
            )

    def _check_memory(self, name: str, *, replace: bool) -> None:
        """Before it is read: an adapter that nobody keeps must not be in memory either."""
        with self._lock:
            if name in self._loaded and not replace:
                return
            if len(self._alive) >= self._capacity:
                raise AdapterConflict(
                    f"{len(self._alive)} adapters are in memory ({len(self._loaded)} have a name, "
                    f"the others still answer), and --max-cpu-loras allows {self._capacity}; unload "
                    f"one, or give the server more"
                )

    def _add(self, name: str, weights: LoraWeights) -> Loaded:
        """Equal weights are in memory once, under two names or after the last was unloaded too."""
        same = (one for one in self._alive if one.identity == weights.identity)
        kept = next(same, weights)
        self._alive.add(kept)
        self._loaded[name] = Loaded(name, kept, int(time.time()))
        return self._loaded[name]
