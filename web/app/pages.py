"""What is not JSON: the page, and the answer to the health check."""

from flask import Blueprint, Response, current_app, render_template

blueprint = Blueprint("pages", __name__)


@blueprint.get("/")
def index() -> str:
    """The page; reload it to see the proxy take turns between the replicas."""
    return render_template(
        "index.html",
        replica=current_app.config["REPLICA"],
        revision=current_app.config["REVISION"],
        started_at=current_app.config["STARTED_AT"],
    )


@blueprint.get("/healthz")
def healthz() -> Response:
    """200 while this replica can answer. It asks nothing of other services: if a database is
    away, restarting every replica would not bring it back.
    """
    return Response("ok\n", mimetype="text/plain")
