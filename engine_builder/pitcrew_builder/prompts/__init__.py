"""A user's prompts: read from a file or a URL, told apart, and turned into tokens."""
