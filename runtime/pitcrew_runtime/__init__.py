"""Serves an engine directory: requests, batches, KV pages, executors, HTTP. Knows no Kubernetes."""

import os

# ONNX Runtime reads it once, when it is imported: else it sends usage data to its vendor, and keeps
# an id of the machine in the home directory for it. Nobody asked our users.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
