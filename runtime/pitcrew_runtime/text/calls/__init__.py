"""Calls of functions in an assistant's text: how they are written, and how they are read."""
