"""The page: lines of text from an interval. Knows no terminal."""

from pitcrew_builder.manifest import short_id
from pitcrew_runtime.top.scrape import Interval

_BAR = 30
_LATENCIES = (
    ("time to first token", "pitcrew_time_to_first_token_seconds"),
    ("time per output token", "pitcrew_time_per_output_token_seconds"),
    ("request", "pitcrew_request_duration_seconds"),
    ("in the queue", "pitcrew_request_queue_seconds"),
    ("host's part of a step", "pitcrew_step_host_gap_seconds"),
)


def lines(interval: Interval) -> list[str]:
    """The whole page."""
    page = [
        *_engine(interval),
        "",
        *_load(interval),
        "",
        *_latencies(interval),
        "",
        *_efficiency(interval),
    ]
    return [_plain(line) for line in page]


def _plain(line: str) -> str:
    """Names come from the server, and may hold codes that a terminal obeys."""
    return "".join(char if char.isprintable() else "?" for char in line)


def _engine(interval: Interval) -> list[str]:
    told = interval.after.labels("pitcrew_engine_info")
    names = [told[key] for key in ("model", "target") if key in told]
    identity = short_id(told.get("engine_id", ""))
    return [" · ".join([*names, f"engine {identity}"]) if identity else "no engine is loaded yet"]


def _load(interval: Interval) -> list[str]:
    now = interval.after
    ended = interval.by_label("pitcrew_requests_finished_total", "reason")
    reasons = ", ".join(f"{count:.0f} {reason}" for reason, count in ended.items() if count)
    refused = interval.by_label("pitcrew_requests_refused_total", "code")
    codes = ", ".join(f"{count:.0f} × {code}" for code, count in refused.items() if count)
    usage = now.value("pitcrew_kv_cache_usage_ratio")
    pages, cached = now.value("pitcrew_kv_pages"), now.value("pitcrew_kv_pages_cached")
    running, waiting = now.value("pitcrew_requests_running"), now.value("pitcrew_requests_waiting")
    finished = interval.rate("pitcrew_requests_finished_total")
    taken = interval.rate("pitcrew_prompt_tokens_total")
    given = interval.rate("pitcrew_generation_tokens_total")
    return [
        f"requests   {running:6.0f} running  {waiting:6.0f} waiting  {finished:8.1f} ended/s",
        f"tokens     {taken:8.1f} in/s  {given:8.1f} out/s",
        f"KV pages   {_bar(usage)} {usage:6.1%} of {pages:.0f}, {cached:.0f} more cached",
        f"ended      {reasons or 'none'}",
        f"refused    {codes or 'none'}",
    ]


def _latencies(interval: Interval) -> list[str]:
    found = [f"{'':24}{'mean':>10}{'p50':>10}{'p90':>10}{'p99':>10}"]
    for name, histogram in _LATENCIES:
        values = [interval.mean(histogram)]
        values += [interval.quantile(histogram, part) for part in (0.5, 0.9, 0.99)]
        found.append(f"{name:24}" + "".join(f"{_seconds(value):>10}" for value in values))
    return found


def _efficiency(interval: Interval) -> list[str]:
    batch = interval.mean("pitcrew_step_batch_size")
    hits = interval.part(
        "pitcrew_prefix_cache_hit_tokens_total", "pitcrew_prefix_cache_queried_tokens_total"
    )
    padding = interval.part("pitcrew_padding_positions_total", "pitcrew_computed_positions_total")
    accepted = interval.part(
        "pitcrew_speculative_accepted_tokens_total", "pitcrew_speculative_proposed_tokens_total"
    )
    return [
        f"sequences in a step   {'-' if batch is None else f'{batch:.1f}'}",
        f"prefix cache hits     {_part(hits)} of prompt tokens",
        f"guesses accepted      {_part(accepted)}",
        f"padding               {_part(padding)} of computed positions",
        f"preemptions           {interval.gained('pitcrew_preemptions_total'):.0f}",
    ]


def _bar(part: float) -> str:
    full = round(min(1.0, max(0.0, part)) * _BAR)
    return "[" + "#" * full + "." * (_BAR - full) + "]"


def _part(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    if value < 0.001:
        return f"{value * 1e6:.0f} µs"
    return f"{value * 1e3:.1f} ms" if value < 1 else f"{value:.2f} s"
