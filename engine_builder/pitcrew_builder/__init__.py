"""Turns a Hugging Face checkpoint into a versioned, proven engine directory. Knows no Kubernetes."""

__version__ = "0.1.0"
