"""The JSON endpoints under /api."""

import json
import os
import time
from pathlib import Path
from typing import Any

from flask import Blueprint, abort, current_app, request

blueprint = Blueprint("api", __name__, url_prefix="/api")

MAX_ID_CHARS = 200


@blueprint.get("/replica")
def replica() -> dict[str, Any]:
    """Which replica answers: host name of its container, revision, since when, how many so far."""
    return {
        **_identity(),
        "pid": os.getpid(),
        "started_at": current_app.config["STARTED_AT"],
        "served": request.environ["app.served"],
    }


@blueprint.post("/echo")
def echo() -> dict[str, Any]:
    """Send back the id of the JSON body: proof that answer and request belong together."""
    body = request.get_json(silent=True)
    if not isinstance(body, dict) or set(body) != {"id"}:
        abort(400, 'The body must be {"id": "..."}.')
    id_ = body["id"]
    if not isinstance(id_, str) or not 1 <= len(id_) <= MAX_ID_CHARS:
        abort(400, f"id must be a string of 1 to {MAX_ID_CHARS} characters.")
    return {"id": id_, **_identity()}


@blueprint.route("/work", methods=["GET", "POST"])
def work() -> dict[str, Any]:
    """Take `ms` milliseconds to answer: asleep, or with `burn` as long with a busy CPU instead."""
    if "burn" in request.args:
        burn_ms = _milliseconds("burn")
        deadline = time.perf_counter() + burn_ms / 1000
        while time.perf_counter() < deadline:
            pass
        return {"burned_ms": burn_ms, **_identity()}
    wait_ms = _milliseconds("ms")
    time.sleep(wait_ms / 1000)
    return {"waited_ms": wait_ms, **_identity()}


@blueprint.get("/openapi.json")
def openapi() -> dict[str, Any]:
    """Describe these endpoints for programs (OpenAPI 3.1)."""
    document: dict[str, Any] = json.loads(Path(current_app.root_path, "openapi.json").read_text())
    for name in ("ms", "burn"):
        schema = document["components"]["parameters"][name]["schema"]
        schema["maximum"] = current_app.config["MAX_WORK_MS"]
    return document


def _identity() -> dict[str, str]:
    return {"replica": current_app.config["REPLICA"], "revision": current_app.config["REVISION"]}


def _milliseconds(name: str) -> int:
    text = request.args.get(name, "0")
    # isdecimal alone would take digits of other scripts, and int() takes "1_000" and " 5 ".
    limit = current_app.config["MAX_WORK_MS"]
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and int(text) <= limit):
        abort(400, f"{name} must be a whole number from 0 to {limit}.")
    return int(text)
