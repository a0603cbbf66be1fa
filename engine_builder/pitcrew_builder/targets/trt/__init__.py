"""TensorRT and TensorRT-RTX: plans compiled from the same graph in half precision."""
