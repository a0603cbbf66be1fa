"""How many replicas the load asks for: arithmetic over what was measured, the standard library alone.

`looks` is what was seen, `votes` what each signal makes of it, `decision` the number that follows.
"""
