"""`kubectl pitcrew`: what people ask of engines and deployments, answered in their terminal.

It reads and writes through the user's own kubectl, so contexts, sign-in and permissions are those
that the user has. Readings become text in pure functions; it holds no state.
"""
