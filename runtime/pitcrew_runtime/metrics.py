"""Prometheus metrics: every name in one place.

Meanings follow the Gateway API Inference Extension (waiting, running, KV usage) and OpenTelemetry's
GenAI conventions (durations in seconds). One process serves one engine, so a registry of its own
is enough.
"""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    Info,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pitcrew_runtime.core.engine import Gauges, StepReport
from pitcrew_runtime.core.request import Finish

# A creation time beside every counter would double the text that is scraped, for nobody.
disable_created_metrics()  # type: ignore[no-untyped-call]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_GAP_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """What one server counts and measures."""

    def __init__(self, gauges: Callable[[], Gauges], engine: dict[str, str]) -> None:
        self._registry = registry = CollectorRegistry()
        registry.register(_EngineState(gauges))
        Info("pitcrew_engine", "The engine that is served.", registry=registry).info(engine)
        self.first_token = Histogram(
            "pitcrew_time_to_first_token_seconds",
            "From a request's arrival to its first token.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.output_token = Histogram(
            "pitcrew_time_per_output_token_seconds",
            "A complete answer's time between tokens after the first, averaged over the answer.",
            buckets=_TOKEN_SECONDS,
            registry=registry,
        )
        self.duration = Histogram(
            "pitcrew_request_duration_seconds",
            "From a request's arrival to its end.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.queue = Histogram(
            "pitcrew_request_queue_seconds",
            "From a request's arrival to its first step.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.step_rows = Histogram(
            "pitcrew_step_batch_size",
            "Sequences in a step.",
            buckets=_ROWS,
            registry=registry,
        )
        self.host_gap = Histogram(
            "pitcrew_step_host_gap_seconds",
            "Of a step's time, that in which the network did not run.",
            buckets=_GAP_SECONDS,
            registry=registry,
        )
        self.prompt_tokens = Counter(
            "pitcrew_prompt_tokens", "Prompt tokens of accepted requests.", registry=registry
        )
        self.generation_tokens = Counter(
            "pitcrew_generation_tokens", "Tokens generated.", registry=registry
        )
        self.finished = Counter(
            "pitcrew_requests_finished",
            "Requests that ended, by reason.",
            ["reason"],
            registry=registry,
        )
        for reason in Finish:  # a counter that is born at 1 has no rate
            self.finished.labels(reason.value)
        self.refused = Counter(
            "pitcrew_requests_refused",
            "HTTP requests answered with an error, by status code.",
            ["code"],
            registry=registry,
        )

    def step(self, report: StepReport) -> None:
        """Record one step."""
        if report.rows:
            self.step_rows.observe(report.rows)
            self.host_gap.observe(report.host_seconds)
        for seconds in report.queue_seconds:
            self.queue.observe(seconds)

    def collect(self) -> Iterable[Metric]:
        """Everything, as values."""
        return self._registry.collect()

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self._registry)


class _EngineState(Collector):
    """Gauges that are read when they are asked for."""

    def __init__(self, gauges: Callable[[], Gauges]) -> None:
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        now = self._gauges()
        yield GaugeMetricFamily(
            "pitcrew_requests_waiting", "Requests without KV pages.", now.waiting
        )
        yield GaugeMetricFamily("pitcrew_requests_running", "Requests in the batch.", now.running)
        yield GaugeMetricFamily(
            "pitcrew_kv_cache_usage_ratio",
            "Used part of the KV pages, 0 to 1.",
            now.pages_used / now.pages_total,
        )
        yield GaugeMetricFamily("pitcrew_kv_pages", "KV pages in the pool.", now.pages_total)
        yield GaugeMetricFamily(
            "pitcrew_kv_pages_cached",
            "KV pages that nobody uses, kept for prompts that begin alike.",
            now.pages_cached,
        )
        for name, meaning, value in _totals(now):
            yield CounterMetricFamily(name, meaning, value)


def _totals(now: Gauges) -> Iterator[tuple[str, str, float]]:
    """(name, meaning, value) of what is counted inside the engine."""
    counts, work = now.counts, now.work
    yield (
        "pitcrew_preemptions",
        "Sequences that gave back their pages to be computed again.",
        counts.preemptions,
    )
    yield (
        "pitcrew_outgrown_texts",
        "Sequences computed again as they outgrew the network's short texts (LongRoPE).",
        counts.outgrown,
    )
    yield (
        "pitcrew_prefix_cache_queried_tokens",
        "Tokens of admitted sequences, that might have been found in pages.",
        counts.known_tokens,
    )
    yield (
        "pitcrew_prefix_cache_hit_tokens",
        "Tokens of admitted sequences that were found in pages.",
        counts.reused_tokens,
    )
    yield (
        "pitcrew_speculative_proposed_tokens",
        "Guesses at tokens to come.",
        work.proposed,
    )
    yield ("pitcrew_speculative_accepted_tokens", "Guesses that were right.", work.accepted)
    yield ("pitcrew_computed_positions", "Tokens computed, padding among them.", work.positions)
    yield ("pitcrew_padding_positions", "Padding computed.", work.padding)
    yield ("pitcrew_network_seconds", "Time in which the network ran.", work.seconds)
    yield ("pitcrew_network_runs", "Launches of the network.", work.runs)
