"""Holds a text to a JSON schema, a regular expression or a grammar, token by token (llguidance)."""
