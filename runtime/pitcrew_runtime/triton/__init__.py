"""An engine under NVIDIA's Triton Inference Server: its model repository, and the model in it.

Triton has the network's side and the queue of connections; scheduler, pages and sampling are ours,
in the one process that Triton's Python backend starts for a model.
"""
