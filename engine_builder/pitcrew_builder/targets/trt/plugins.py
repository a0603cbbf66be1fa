"""Plugins: kernels that take the place of a model-local function such as `llm::PagedAttention`.

A distribution offers them under the entry point group `pitcrew.tensorrt_plugins`; each entry is a
function that is given the TensorRT module and registers its creators under the namespace `pitcrew`.
The parser takes a plugin where a node names one that is registered, else the function's body.
"""

from importlib.metadata import EntryPoint, entry_points

from pitcrew_builder.targets.trt.library import Native

GROUP = "pitcrew.tensorrt_plugins"


def versions() -> dict[str, str]:
    """Every plugin that would be registered, and its distribution's version."""
    return {f"plugin-{entry.name}": _version(entry) for entry in _installed()}


def register(library: Native, logger: Native) -> None:
    """Make the library's own plugins and all installed ones known to the parser."""
    library.init_libnvinfer_plugins(logger, "")
    for entry in _installed():
        entry.load()(library)


def _installed() -> list[EntryPoint]:
    return sorted(entry_points(group=GROUP), key=lambda entry: entry.name)


def _version(entry: EntryPoint) -> str:
    return entry.dist.version if entry.dist is not None else "unknown"
