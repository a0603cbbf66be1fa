"""Serves an engine directory: requests, batches, KV pages, executors, HTTP. Knows no Kubernetes."""
