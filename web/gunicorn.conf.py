"""gunicorn's settings. Each figure belongs to a pair: see docs/app-contract.md, "Timeouts nest"."""

import os
import time
from typing import Any

bind = "0.0.0.0:8000"

# One worker process: one scales by replicas here. Four threads measured best for small answers.
worker_class = "gthread"
workers = 1
threads = int(os.environ.get("THREADS", "4"))

# The app is imported before the port is opened, so whoever can connect gets an answer.
preload_app = True

# Longer than nginx keeps idle connections (60 s): the side that sends never meets a closed one.
keepalive = 75

# Shorter than stop_grace_period in compose.yaml (30 s): gunicorn ends by itself, not by SIGKILL.
graceful_timeout = 25

# The root file system is read-only. The heartbeat file lives in memory; nothing uses the
# control socket, which would otherwise be made under the home directory.
worker_tmp_dir = "/dev/shm"  # noqa: S108 - a tmpfs of this container alone
control_socket_disable = True

# An orchestrator may still send requests for a moment after SIGTERM: Swarm does.
stop_delay_s = float(os.environ.get("STOP_DELAY", "0"))


def when_ready(server: Any) -> None:
    """Serve on for STOP_DELAY seconds after SIGTERM, and stop then."""
    stop = server.handle_term

    def stop_later() -> None:
        # The worker process goes on meanwhile.
        time.sleep(stop_delay_s)
        stop()

    server.handle_term = stop_later


# nginx bounds requests first (proxy/conf/clients.conf), and answers in its own words.
limit_request_line = 8190
limit_request_fields = 1000

# No max_requests: a worker that restarts by itself closes connections that nginx holds open.

# The app writes one JSON line for each request itself.
accesslog = None
