"""What is scraped, read back by Prometheus' own parser."""

import re

from prometheus_client.parser import text_string_to_metric_families

from pitcrew_runtime.core.engine import Gauges, StepReport
from pitcrew_runtime.core.executor import Work
from pitcrew_runtime.core.plan import Counts
from pitcrew_runtime.metrics import Metrics

GAUGES = Gauges(
    waiting=3,
    running=2,
    pages_used=5,
    pages_cached=4,
    pages_total=20,
    counts=Counts(preemptions=1, known_tokens=100, reused_tokens=60),
    work=Work(seconds=1.5, runs=7, positions=50, padding=10, proposed=9, accepted=6),
)
ENGINE = {"engine_id": "e" * 64, "target": "onnxruntime-cpu"}


def scraped() -> dict[str, float]:
    metrics = Metrics(lambda: GAUGES, ENGINE)
    metrics.step(StepReport((), (0.5,), 2, 40, 0.01, host_seconds=0.003))
    metrics.step(StepReport((), (), 0, 0, 0.0))
    text = metrics.render().decode()
    return {
        sample.name + "".join(f"[{value}]" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_engine_is_told_as_it_is() -> None:
    found = scraped()
    expected = {
        "pitcrew_requests_waiting": 3,
        "pitcrew_requests_running": 2,
        "pitcrew_kv_cache_usage_ratio": 0.25,
        "pitcrew_kv_pages": 20,
        "pitcrew_kv_pages_cached": 4,
        "pitcrew_preemptions_total": 1,
        "pitcrew_prefix_cache_queried_tokens_total": 100,
        "pitcrew_prefix_cache_hit_tokens_total": 60,
        "pitcrew_speculative_proposed_tokens_total": 9,
        "pitcrew_speculative_accepted_tokens_total": 6,
        "pitcrew_computed_positions_total": 50,
        "pitcrew_padding_positions_total": 10,
        "pitcrew_network_seconds_total": 1.5,
        "pitcrew_network_runs_total": 7,
        "pitcrew_step_batch_size_sum": 2,
        "pitcrew_step_host_gap_seconds_sum": 0.003,
        "pitcrew_request_queue_seconds_sum": 0.5,
    }
    assert {name: found[name] for name in expected} == expected
    assert found["pitcrew_step_host_gap_seconds_count"] == 1, "a step without rows has no gap"
    assert f"pitcrew_engine_info[{'e' * 64}][onnxruntime-cpu]" in found


def test_names_and_units_are_prometheus_own() -> None:
    text = Metrics(lambda: GAUGES, ENGINE).render().decode()
    for family in text_string_to_metric_families(text):
        assert re.fullmatch(r"pitcrew_[a-z_]+", family.name), family.name
        assert family.documentation, family.name
        assert not re.search(r"milli|micro|_ms|percent|minutes", family.name), family.name
        # What promtool's linter asks for, where it can be seen from a name.
        assert not re.search(r"_(total|count|sum|bucket)$", family.name), family.name
        assert not re.search(r"gauge|counter|histogram", family.name), family.name
        assert family.type != "gauge" or not any("_total" in one.name for one in family.samples)
        assert family.type != "counter" or all(
            one.name.endswith("_total") for one in family.samples
        )
        if "duration" in family.name or "time" in family.name:
            assert family.name.endswith("_seconds"), family.name
