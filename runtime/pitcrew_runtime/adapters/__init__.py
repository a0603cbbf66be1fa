"""LoRA adapters while an engine is served: read, kept by name, and put into the graph's slots."""
