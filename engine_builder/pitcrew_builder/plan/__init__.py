"""What an engine will weigh, need and serve, from its spec and `config.json` alone."""
