"""Proof on a user's own prompts: what the engine computes beside what it should."""
