"""The web service: a small Flask application that knows which replica it is."""

import os
import platform
import time
from datetime import UTC, datetime
from itertools import count
from typing import Any

from flask import Flask, jsonify, request
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.wrappers import Response

from app import api, metrics, pages, request_log


def create_app(**settings: Any) -> Flask:
    """Build the application; `settings` override what the environment says.

    Environment: REVISION (name of the revision, "dev" when unset), MAX_BODY_BYTES (16384),
    MAX_WORK_MS (60000).
    """
    app = Flask(__name__)
    app.config.from_mapping(
        REVISION=os.environ.get("REVISION", "dev"),
        REPLICA=platform.node(),
        STARTED_AT=datetime.now(UTC).isoformat(timespec="milliseconds"),
        MAX_CONTENT_LENGTH=int(os.environ.get("MAX_BODY_BYTES", "16384")),
        MAX_WORK_MS=int(os.environ.get("MAX_WORK_MS", "60000")),
    )
    app.config.from_mapping(settings)

    # The proxy is the only way in and overwrites X-Forwarded-*, so exactly one hop is trusted.
    app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1, x_host=1)  # type: ignore[method-assign]

    served = count(1)

    @app.before_request
    def start() -> None:
        request.environ["app.started"] = time.perf_counter()
        request.environ["app.served"] = next(served)

    app.register_error_handler(HTTPException, _json_error)
    app.register_blueprint(pages.blueprint)
    app.register_blueprint(api.blueprint)
    metrics.init_app(app)
    request_log.init_app(app)
    return app


def _json_error(error: HTTPException) -> Response:
    # With its headers: a 405 has to say which methods are allowed.
    response = error.get_response(request.environ)
    if error.code is not None and error.code >= 400:
        body = jsonify(error=error.name, detail=error.description)
        response.data, response.content_type = body.data, body.content_type
    return response
