"""The custom resources as typed documents: what users write and what the operator answers."""
