"""GET /metrics: counts and durations of this replica's requests, for Prometheus."""

import time

from flask import Flask, Response, request
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

# A method is whatever a client sends; anything else would let it create series without end.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def init_app(app: Flask) -> None:
    """Observe every request of `app`, labelled by method, route template and status."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    requests = Counter(
        "http_requests", "Requests answered.", ["method", "route", "status"], registry=registry
    )
    seconds = Histogram(
        "http_request_duration_seconds",
        "Time from the request's arrival in Flask to its answer.",
        ["method", "route"],
        registry=registry,
    )

    in_progress = Gauge(
        "http_requests_in_progress", "Requests that are being answered.", registry=registry
    )

    @app.before_request
    def begin() -> None:
        in_progress.inc()

    @app.teardown_request
    def end(_error: BaseException | None) -> None:
        in_progress.dec()

    @app.after_request
    def observe(response: Response) -> Response:
        # The template ("/api/work"), never the path: its number of values is bounded.
        route = request.url_rule.rule if request.url_rule else "none"
        method = request.method if request.method in METHODS else "other"
        requests.labels(method, route, str(response.status_code)).inc()
        seconds.labels(method, route).observe(time.perf_counter() - request.environ["app.started"])
        return response

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)
