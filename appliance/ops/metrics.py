"""Metrics for Prometheus: names `carillon_<noun>_<unit>`, bounded labels, no content.

Gauges are read when they are scraped; the only work on a request is one addition.
"""

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from appliance import __version__
from appliance.delivery.engine import DeliveryEngine
from appliance.delivery.nodes import Nodes
from appliance.hub.hub import Hub
from appliance.storage.writer import Writer

FACES: Final = frozenset({"push", "oauth", "account", "hubs", "wizard", "health", "metrics", "schema", "console"})
_FORWARDED: Final = frozenset({b"x-forwarded-for", b"forwarded", b"x-real-ip"})


class RequestCounter:
    """Counts HTTP requests by face (first part of the path, a closed set) and status class."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, int], int] = {}

    def count(self, path: str, status: int) -> None:
        """Count one answered request."""
        face = path[1:].partition("/")[0]
        key = (face if face in FACES else "other", status // 100)
        self._counts[key] = self._counts.get(key, 0) + 1

    def __iter__(self) -> Iterator[tuple[tuple[str, int], int]]:
        return iter(list(self._counts.items()))


class ApplianceCollector(Collector):
    """Reads the running parts at scrape time."""

    def __init__(
        self, hub: Hub, engine: DeliveryEngine, writer: Writer, requests: RequestCounter, nodes: Nodes | None = None
    ) -> None:
        self._hub = hub
        self._engine = engine
        self._writer = writer
        self._requests = requests
        self._nodes = nodes

    def collect(self) -> Iterable[Metric]:
        yield _gauge("carillon_build_info", "The running version.", {("version",): {(__version__,): 1}})
        requests = CounterMetricFamily("carillon_http_requests", "Answered HTTP requests.", labels=["face", "status"])
        for (face, status), count in self._requests:
            requests.add_metric([face, f"{status}xx"], count)
        yield requests
        yield from self._storage()
        yield _gauge(
            "carillon_engine_handed_over", "Accepted notifications that wait to be offered.", self._engine.handed_over
        )
        yield _gauge(
            "carillon_engine_offers_open", "Offers that wait for an acknowledgement.", self._engine.offers_open
        )
        yield from self._hub_metrics()
        if self._nodes is not None:
            yield from self._node_metrics(self._nodes)

    def _node_metrics(self, nodes: Nodes) -> Iterable[Metric]:
        counters = nodes.counters
        yield _gauge("carillon_nodes_connected", "Whether Redis carries what this node says.", float(nodes.is_up))
        yield _gauge("carillon_nodes_others", "Other nodes that are alive.", nodes.others)
        yield _gauge(
            "carillon_nodes_clock_difference_seconds",
            "How far the clock of another node is off from this one's, at most.",
            nodes.clock_difference_s,
        )
        yield _counter("carillon_nodes_messages_dropped", "Messages to others that were never sent.", nodes.dropped)
        for name, text, value in (
            ("frames_sent", "Frames sent to other nodes.", counters.frames_sent),
            ("frames_heard", "Frames of other nodes.", counters.frames_heard),
            ("frames_unreadable", "Frames of another version, or no frames at all.", counters.frames_unreadable),
            ("gaps", "Frames of other nodes that were missed, one after another counted as one.", counters.gaps),
            ("resyncs", "Times that the sessions here caught up with the database.", counters.resyncs),
        ):
            yield _counter(f"carillon_nodes_{name}", text, value)

    def _storage(self) -> Iterable[Metric]:
        yield _counter("carillon_writer_commits", "Committed groups.", self._writer.groups)
        yield _counter("carillon_writer_jobs", "Jobs that were committed in groups.", self._writer.jobs)
        yield _gauge("carillon_writer_waiting_jobs", "Jobs that wait for a commit.", self._writer.waiting)

    def _hub_metrics(self) -> Iterable[Metric]:
        stats = self._hub.stats()
        yield _gauge("carillon_hub_connections", "Open hub connections.", stats.connections)
        yield _gauge("carillon_hub_plain_connections", "Connections that have not said Hello.", stats.plain_connections)
        yield _gauge("carillon_hub_sessions", "Devices with a live session.", stats.sessions)
        yield _gauge("carillon_hub_handshakes_pending", "Connections in their handshake.", stats.handshakes_pending)
        yield _gauge(
            "carillon_hub_negotiations_pending", "Ids given out and not opened yet.", stats.negotiations_pending
        )
        yield from self._hub_census()
        for name, value in (
            ("offered", stats.offered),
            ("offered_plain", stats.offered_plain),
            ("replayed", stats.replayed),
            ("acknowledged", stats.acknowledged),
            ("acknowledged_late", stats.acknowledged_late),
            ("cut", stats.cut),
        ):
            yield _counter(f"carillon_hub_notifications_{name}", f"Notifications {name.replace('_', ' ')}.", value)
        text = "Times that a session loaded what it had not been offered."
        yield _counter("carillon_hub_catch_ups", text, stats.caught_up)
        text = "Times that a client went on with its connection over another socket."
        yield _counter("carillon_hub_resumptions", text, stats.resumed)
        yield _labelled("carillon_hub_offers_cut", "Offers never written, by reason.", "reason", stats.cut_by_reason)
        yield _labelled("carillon_hub_connections_ended", "Ended hub connections by reason.", "reason", stats.ended)
        yield _labelled(
            "carillon_hub_connections_refused", "Refused hub connections by reason.", "reason", stats.refused
        )

    def _hub_census(self) -> Iterable[Metric]:
        census = self._hub.take_census()
        yield _gauge("carillon_hub_away_connections", "Connections whose client may come back.", census.away)
        for name, label, counts in (
            ("carillon_hub_transport_connections", "transport", census.transports),
            ("carillon_hub_encoding_connections", "encoding", census.encodings),
            ("carillon_hub_dialect_connections", "dialect", census.dialects),
        ):
            by_kind: dict[tuple[str, ...], float] = {(kind,): count for kind, count in counts.items()}
            yield _gauge(name, f"Open hub connections by {label}.", {(label,): by_kind})
        trips = self._hub.round_trips
        buckets = [("+Inf" if bound == float("inf") else str(bound), count) for bound, count in trips]
        text = "From offer to acknowledgement, in time or late."
        yield HistogramMetricFamily(
            "carillon_hub_acknowledgement_seconds", text, buckets=buckets, sum_value=trips.sum_s
        )


def make_registry(collector: Collector) -> CollectorRegistry:
    """Give a registry with the appliance's own metrics and those of the process."""
    registry = CollectorRegistry()
    registry.register(collector)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def metrics_handler(
    registry: CollectorRegistry, is_admin: Callable[[Request[Any, Any, Any]], bool]
) -> HTTPRouteHandler:
    """Give the route `/metrics`: for programs on this machine, and for admins from elsewhere."""

    @get(
        "/metrics",
        summary="Metrics in Prometheus' text format",
        description="Open to programs on this machine; from elsewhere an admin's bearer token is needed.",
        operation_id="GetMetrics",
        tags=["operations"],
        media_type="text/plain",
        sync_to_thread=False,
        responses={403: ResponseSpec(None, description="Not from this machine and not an admin.")},
    )
    def get_metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
        if not (is_local(request) or is_admin(request)):
            return Response(b"", status_code=403)
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4")

    return get_metrics


def is_local(request: Request[Any, Any, Any]) -> bool:
    """Tell whether the request comes from this machine itself and was not passed on by a proxy."""
    if any(name in _FORWARDED for name, _ in request.scope["headers"]):
        return False
    client = request.scope.get("client")
    try:
        return client is not None and ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return False


def _gauge(name: str, text: str, value: float | Mapping[tuple[str, ...], Mapping[tuple[str, ...], float]]) -> Metric:
    if not isinstance(value, Mapping):
        return GaugeMetricFamily(name, text, value=value)
    ((labels, rows),) = value.items()
    family = GaugeMetricFamily(name, text, labels=list(labels))
    for row, number in rows.items():
        family.add_metric(list(row), number)
    return family


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _labelled(name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for key, count in values.items():
        family.add_metric([key], count)
    return family
