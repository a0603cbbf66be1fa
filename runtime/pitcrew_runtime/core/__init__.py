"""The heart: requests, pages, scheduler, engine. Knows no tensor library, clock, thread or wire."""
