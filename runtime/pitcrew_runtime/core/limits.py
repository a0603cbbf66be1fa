"""What a scheduler may use."""

from dataclasses import dataclass

from pitcrew_runtime.core.request import Request
from pitcrew_runtime.core.waiting import Policy
from pitcrew_runtime.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on requests and steps; raises `ValueError` where they contradict each other."""

    max_running: int
    """Sequences in one batch."""
    max_step_tokens: int
    """New tokens in one step."""
    max_waiting: int
    """Requests that may wait beside the running ones."""
    max_sequence_length: int
    """Prompt and output tokens of one sequence."""
    page_size: int
    """Tokens in a page."""
    policy: Policy = Policy.SHORTEST_FIRST
    prefix_cache: bool = True
    """Keep full pages for later prompts that begin alike, as long as nobody needs the room."""
    short_length: int = 0
    """Tokens of the longest text that the network computes otherwise than longer ones: a sequence
    that outgrows it is computed again from its first token. 0: all texts are computed alike."""
    longest_row: int | None = None
    """New tokens of one sequence in a step, of a prompt; None: all that a step has."""
    lookahead: int = 0
    """Tokens beyond the next one that a decoding sequence may be given in a step: speculation."""

    def __post_init__(self) -> None:
        for name in ("max_running", "max_waiting", "page_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)}; at least 1 is needed")
        if self.longest_row is not None and self.longest_row < 1:
            raise ValueError(f"longest_row: {self.longest_row}; at least 1 is needed")
        if self.lookahead < 0:
            raise ValueError(f"lookahead: {self.lookahead}; 0 switches speculation off")
        if self.max_step_tokens <= self.max_running:
            raise ValueError(
                f"max_step_tokens: {self.max_step_tokens}; more than max_running "
                f"({self.max_running}) are needed, or prompts would starve beside a full batch"
            )

    def outgrown(self, tokens: int) -> bool:
        """Whether a text of so many tokens is no short one, where there are such."""
        return 0 < self.short_length < tokens

    def pages_for(self, tokens: int) -> int:
        """Pages that so many tokens fill or begin."""
        return -(-tokens // self.page_size)

    def check(self, request: Request, pages: int) -> None:
        """Raise `InvalidRequest` where a request could never run in a pool of so many pages."""
        prompt, wanted = len(request.prompt), request.max_tokens
        length = prompt + wanted
        if not prompt or wanted < 0:
            raise InvalidRequest("a request needs at least one prompt token, and max_tokens from 0")
        if length > self.max_sequence_length:
            raise InvalidRequest(
                f"{prompt} prompt tokens and {wanted} to generate make {length}, but a sequence "
                f"may have {self.max_sequence_length}; shorten the prompt or lower max_tokens",
                param="max_tokens",
            )
        if self.pages_for(length) > pages:
            raise InvalidRequest(
                f"{length} tokens need {self.pages_for(length)} KV pages, but the pool has "
                f"{pages}; shorten the request or give the server more --kv-memory",
                param="max_tokens",
            )
