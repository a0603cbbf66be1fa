"""A typed, immutable description of an ONNX graph, a pen to draw it, and its translation to proto."""
