"""Turns a Hugging Face checkpoint into a versioned, proven engine directory. Knows no Kubernetes."""

import os

__version__ = "0.1.0"

# ONNX Runtime reads it once, when it is imported: else it sends usage data to its vendor, and keeps
# an id of the machine in the home directory for it. Nobody asked our users.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
