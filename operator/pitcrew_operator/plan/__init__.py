"""Pure decisions: what is wanted and what is seen go in, actions come out.

Nothing here does input or output, reads a clock or keeps state, so that every situation can be
tested as a value. A plan may be asked again at any moment, from a stale view too: names are
deterministic, so the worst case is a write that changes nothing.
"""
