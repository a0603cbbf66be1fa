import io
import math
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from pitcrew_runtime.core.engine import StepReport
from pitcrew_runtime.metrics import Metrics
from pitcrew_runtime.top.cli import Unreadable, main, metrics_address, watch
from pitcrew_runtime.top.scrape import Interval, Scrape, parse
from tests.unit.runtime.test_metrics import ENGINE, GAUGES


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(lambda: GAUGES, {**ENGINE, "model": "tiny"})


def pages(metrics: Metrics, screen: io.StringIO) -> list[str]:
    """Two looks, a second apart, between which something happens."""

    def looks() -> Iterator[Scrape]:
        yield parse(metrics.render().decode(), 10.0)
        metrics.generation_tokens.inc(50)
        metrics.finished.labels("stop").inc(3)
        metrics.refused.labels("429").inc()
        metrics.first_token.observe(0.2)
        metrics.step(StepReport((), (), 8, 8, 0.01, 0.0004))
        yield parse(metrics.render().decode(), 12.0)

    coming = looks()
    slept: list[float] = []
    watch(lambda: next(coming), 2.0, 2, screen, slept.append)
    assert slept == [2.0]
    return screen.getvalue().split("pitcrew-top: ")[1:]


def test_a_server_does_not_write_to_the_terminal() -> None:
    """CWE-150: names that a server tells may hold a terminal's own codes."""
    found = Metrics(lambda: GAUGES, {**ENGINE, "model": "a\x1b]0;x\x07b\x9b2Jc"})
    screen = io.StringIO()
    watch(lambda: parse(found.render().decode(), 1.0), 1.0, 1, screen)
    assert "a?]0;x?b?2Jc" in screen.getvalue()
    assert all(char.isprintable() for char in screen.getvalue().replace("\n", ""))


def test_a_page_tells_what_happened_since_the_last(metrics: Metrics) -> None:
    first, second = pages(metrics, io.StringIO())
    assert first.startswith("all since the start\ntiny · onnxruntime-cpu · engine eeeeeeeeeeee\n")
    assert "the last 2.0 s" in second
    assert "2 running       3 waiting       1.5 ended/s" in second
    assert "25.0 out/s" in second
    assert "25.0% of 20, 4 more cached" in second
    assert "ended      3 stop\n" in second
    assert "refused    1 × 429\n" in second
    assert "sequences in a step   8.0" in second
    assert "host's part of a step       400 µs" in second
    assert "time to first token       200.0 ms" in second
    assert "prefix cache hits     60.0% of prompt tokens" in first
    assert "guesses accepted      66.7%" in first
    assert "padding               20.0%" in first
    assert "guesses accepted      -" in second


def test_a_terminal_is_cleared_and_a_file_is_not(metrics: Metrics) -> None:
    screen = Terminal()
    pages(metrics, screen)
    assert screen.getvalue().count("\x1b[H\x1b[2J") == 2
    plain = io.StringIO()
    pages(metrics, plain)
    assert "\x1b" not in plain.getvalue()


def test_a_server_that_goes_is_looked_for_again(metrics: Metrics) -> None:
    text = metrics.render().decode()
    looks: list[Scrape | Unreadable] = [
        parse(text, 10.0),
        Unreadable("http://there: refused"),
        parse(text, 14.0),
    ]

    def look() -> Scrape:
        found = looks.pop(0)
        if isinstance(found, Unreadable):
            raise found
        return found

    screen = io.StringIO()
    watch(look, 2.0, 3, screen, lambda seconds: None)
    _, gone, back = screen.getvalue().split("pitcrew-top: ")[1:]
    assert gone == "http://there: refused\n"
    assert back.startswith("the last 4.0 s")


def scrape(registry: CollectorRegistry) -> Scrape:
    return parse(generate_latest(registry).decode(), 0.0)


@pytest.mark.parametrize(
    ("values", "part", "expected"),
    [
        ([0.5] * 10, 0.5, 0.5),
        ([0.5] * 10, 1.0, 1.0),
        ([0.5, 1.5], 0.75, 1.5),
        ([9.0] * 3, 0.5, 2.0),
        ([], 0.5, None),
    ],
    ids=["inside", "upper bound", "second bucket", "beyond the last bound", "nothing"],
)
def test_quantiles_are_those_of_promql(
    values: list[float], part: float, expected: float | None
) -> None:
    registry = CollectorRegistry()
    histogram = Histogram("h", "x", buckets=(1.0, 2.0), registry=registry)
    histogram.observe(0.1)
    before = scrape(registry)
    for value in values:
        histogram.observe(value)
    assert Interval(before, scrape(registry)).quantile("h", part) == (
        expected if expected is None else pytest.approx(expected)
    )


def test_a_server_that_was_started_again_counts_from_nothing() -> None:
    old, new = CollectorRegistry(), CollectorRegistry()
    Counter("c", "x", registry=old).inc(100)
    Counter("c", "x", registry=new).inc(7)
    interval = Interval(scrape(old), scrape(new))
    assert interval.gained("c_total") == 7
    assert interval.rate("c_total") == 0.0, "the looks are at one time"
    assert math.isclose(interval.after.value("c_total"), 7)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("localhost:8000", "http://localhost:8000/metrics"),
        ("https://host/", "https://host/metrics"),
        ("http://host:1/other", "http://host:1/other"),
    ],
)
def test_addresses(url: str, address: str) -> None:
    assert metrics_address(url) == address


def test_a_server_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["127.0.0.1:1", "--once"]) == 2
    assert "is a pitcrew-serve listening there?" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="'ftp://x' is no address"):
        main(["ftp://x"])
