"""Our metrics among Triton's own, under the same names, with the model as a label.

Triton keeps values of its own, so ours are copied once a second. Of a histogram its sum and its
count are copied, which give averages; its buckets are not.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prometheus_client.core import Metric
from prometheus_client.samples import Sample

logger = logging.getLogger(__name__)

_SECONDS = 1.0
_Key = tuple[str, frozenset[tuple[str, str]]]


class Mirror:
    """Copies metrics into Triton's `/metrics`."""

    def __init__(
        self,
        collect: Callable[[], Iterable[Metric]],
        model: str,
        pb_utils: Any,  # noqa: ANN401 - no types there
    ) -> None:
        self._collect = collect
        self._model = model
        self._pb = pb_utils
        self._families: dict[str, Any] = {}
        self._metrics: dict[_Key, Any] = {}
        self._told: dict[_Key, float] = {}

    async def keep(self) -> None:
        """Copy until cancelled, or until Triton takes none because it shows none."""
        while True:
            try:
                await asyncio.to_thread(self.copy)
            except self._pb.TritonModelException as error:
                logger.warning("Metrics are not copied to Triton's: %s", error)
                return
            await asyncio.sleep(_SECONDS)

    def copy(self) -> None:
        """All of them, once."""
        for family in self._collect():
            for kind, sample in _kept(family):
                key = (sample.name, frozenset(sample.labels.items()))
                if key not in self._metrics:
                    self._metrics[key] = self._metric(family, kind, sample)
                if kind == "GAUGE":
                    self._metrics[key].set(sample.value)
                elif (more := sample.value - self._told.get(key, 0.0)) > 0:
                    self._metrics[key].increment(more)
                self._told[key] = sample.value

    def _metric(self, family: Metric, kind: str, sample: Sample) -> Any:  # noqa: ANN401
        if sample.name not in self._families:
            self._families[sample.name] = self._pb.MetricFamily(
                name=sample.name,
                description=family.documentation,
                kind=getattr(self._pb.MetricFamily, kind),
            )
        labels: Mapping[str, str] = {**sample.labels, "model": self._model}
        return self._families[sample.name].Metric(labels=labels)


def _kept(family: Metric) -> Iterator[tuple[str, Sample]]:
    """(kind of Triton's, sample) of all that Triton can show."""
    for sample in family.samples:
        if family.type in ("gauge", "info"):
            yield "GAUGE", sample
        elif not sample.name.endswith(("_bucket", "_created")):
            yield "COUNTER", sample
