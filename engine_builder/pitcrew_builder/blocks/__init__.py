"""Parts of decoders that families share. Each draws with an `Emitter` and returns a value."""
