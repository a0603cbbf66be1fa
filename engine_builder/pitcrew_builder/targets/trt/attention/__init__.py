"""`llm::PagedAttention` as a kernel of ours that is baked into a TensorRT plan."""
