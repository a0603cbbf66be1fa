"""Speculative decoding: guesses at tokens to come, checked by the engine many at a time."""
