"""One JSON line on stdout for each request, with the id that the proxy gave it."""

import json
import sys
import time
from datetime import UTC, datetime

from flask import Flask, Response, request


def init_app(app: Flask) -> None:
    """Log every request of `app`, except the health checks that went well: they are the
    engine's own, a line every few seconds from each replica that says nothing.
    """

    @app.after_request
    def log(response: Response) -> Response:
        if request.path == "/healthz" and response.status_code == 200:
            return response
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "request_id": request.headers.get("X-Request-ID", ""),
            "method": request.method,
            "path": request.path,
            # As the proxy says it: nobody else is believed.
            "client": request.remote_addr,
            "url_root": request.url_root,
            "status": response.status_code,
            "ms": round((time.perf_counter() - request.environ["app.started"]) * 1000, 2),
        }
        # One write a line: threads must not mix their lines.
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
        return response
