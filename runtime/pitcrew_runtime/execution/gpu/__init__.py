"""Runs plans of TensorRT: shapes and policies are arithmetic; `device` and `plan` alone touch a GPU."""
