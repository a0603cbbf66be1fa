"""The operator's own metrics, by Prometheus rules: base units, `_total` on counters."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_BUILD_SECONDS = (1, 5, 15, 60, 300, 900, 1800, 3600, 7200, 14400)


class Metrics:
    """All metrics of one operator, in a registry of their own (so that tests may have many)."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconcile_seconds = Histogram(
            "pitcrew_operator_reconcile_seconds",
            "Time of one reconciliation, API calls included.",
            ["kind"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.reconcile_errors = Counter(
            "pitcrew_operator_reconcile_errors_total",
            "Reconciliations that ended in an error and are repeated.",
            ["kind", "error"],
            registry=self.registry,
        )
        self.api_requests = Counter(
            "pitcrew_operator_api_requests_total",
            "Requests to the API server besides watches.",
            ["verb", "resource", "code"],
            registry=self.registry,
        )
        self.queue_depth = Gauge(
            "pitcrew_operator_queue_depth",
            "Objects that wait for a reconciliation now.",
            registry=self.registry,
        )
        self.objects = Gauge(
            "pitcrew_operator_objects",
            "Objects in the operator's view of the cluster.",
            ["kind"],
            registry=self.registry,
        )
        self.synced = Gauge(
            "pitcrew_operator_synced",
            "1 once every kind was listed.",
            registry=self.registry,
        )
        self.leader = Gauge(
            "pitcrew_operator_leader",
            "1 while this operator may write.",
            registry=self.registry,
        )
        self.argocd_rules = Gauge(
            "pitcrew_operator_argocd_rules",
            "Kinds of ours whose health rule in the Argo CD of a namespace is ours.",
            ["namespace"],
            registry=self.registry,
        )
        self.relists = Counter(
            "pitcrew_operator_relists_total",
            "Listings because a watch had begun anew, and those of our own at the start.",
            registry=self.registry,
        )
        self.watch_failures = Counter(
            "pitcrew_operator_watch_failures_total",
            "How often a watch ended in an error and was begun anew.",
            registry=self.registry,
        )
        self.queue_seconds = Histogram(
            "pitcrew_operator_queue_seconds",
            "Time that an object waited for its reconciliation.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.desired_replicas = Gauge(
            "pitcrew_operator_autoscaling_desired_replicas",
            "Replicas that were decided for an autoscaled LLMDeployment.",
            ["namespace", "deployment"],
            registry=self.registry,
        )
        self.ready_replicas = Gauge(
            "pitcrew_operator_autoscaling_ready_replicas",
            "Replicas of an autoscaled LLMDeployment that are ready.",
            ["namespace", "deployment"],
            registry=self.registry,
        )
        self.scalings = Counter(
            "pitcrew_operator_autoscaling_decisions_total",
            "Changes of the number of replicas, up and down.",
            ["direction"],
            registry=self.registry,
        )
        self.builds = Counter(
            "pitcrew_operator_builds_total",
            "Builds that ended: built, cached (the engine was in the store) or failed, and why.",
            ["outcome", "reason"],
            registry=self.registry,
        )
        self.build_seconds = Histogram(
            "pitcrew_operator_build_seconds",
            "Time of one build that was not cached, as its builder tells.",
            buckets=_BUILD_SECONDS,
            registry=self.registry,
        )
