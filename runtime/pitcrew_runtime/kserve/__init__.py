"""KServe's inference protocol, version 2, over HTTP and gRPC, as Triton speaks it with its vLLM backend.

A text goes in as the tensor `text_input`, sampling parameters by their vLLM names, and text comes out
as `text_output`: once, or piece by piece where the answer is streamed (Triton's decoupled models).
"""
