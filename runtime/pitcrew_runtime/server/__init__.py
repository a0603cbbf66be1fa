"""The wire: OpenAI-compatible HTTP with server-sent events, health and metrics."""
