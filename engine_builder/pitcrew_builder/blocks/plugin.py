"""What a node says of a kernel that may take its function's place: see `targets.trt.plugins`."""

from typing import Final

PLUGIN: Final = {"plugin_namespace": "pitcrew", "plugin_version": "1"}
"""Attributes of a node, and by their names of its function. Without them the body is compiled."""
