"""Runs step batches: ONNX Runtime over paged KV pools, and the sampler."""
