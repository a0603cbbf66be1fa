"""What an engine is made of, for people: on a terminal and on a page."""
