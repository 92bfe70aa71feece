"""The proxy's part of a plan: when it needs a new container, and when only a new configuration."""

from collections.abc import Mapping

from stack.model import Service, Snapshot
from stack.plan import Command, Steps, WaitReady
from stack.revision import PROXY_CONF, program_of


def proxy_name(snapshot: Snapshot) -> str:
    """The name of the proxy's container, also before Compose has made it."""
    if snapshot.proxy:
        return snapshot.proxy.name
    service = proxy_service(snapshot)
    return f"{snapshot.project}-{service.name if service else 'proxy'}-1"


def proxy_service(snapshot: Snapshot) -> Service | None:
    return next((service for service in snapshot.services if service.is_proxy), None)


def proxy_revision(snapshot: Snapshot, wanted: str) -> str:
    """The revision to name to Compose: the running proxy's, as long as only the configuration
    differs, so that Compose leaves its container alone.
    """
    proxy = snapshot.proxy
    if proxy and proxy.is_live and program_of(proxy.revision) == program_of(wanted):
        return proxy.revision
    return wanted


def is_outdated(snapshot: Snapshot, service: Service | None) -> bool:
    """Whether a container of the service was made from other settings than those of today."""
    return service is not None and any(
        r.config_hash != service.config_hash for r in snapshot.of(service.name)
    )


def proxy_is_missing(snapshot: Snapshot) -> bool:
    service, proxy = proxy_service(snapshot), snapshot.proxy
    if service is None or (proxy and proxy.is_live):
        return False
    return proxy is None or not is_outdated(snapshot, service)


def proxy_steps(snapshot: Snapshot, revisions: Mapping[str, str], config: str | None) -> Steps:
    """Wait for the proxy, and install a new configuration into the running one.

    `config` is the digest of the configuration on disk.
    """
    service, proxy = proxy_service(snapshot), snapshot.proxy
    if service is None:
        return []
    ready = WaitReady(
        snapshot.project,
        service,
        1,
        service.start_timeout_s,
        f"{service.name}: wait until it answers",
    )
    if proxy is None:
        return [ready]
    renewed = is_outdated(snapshot, service)
    steps: Steps = [ready] if renewed or not proxy.is_ready else []
    # A new container starts with the configuration that its image was built with.
    built_with = revisions.get(service.name, "").partition("-")[2]
    running = built_with if renewed else snapshot.proxy_config
    if config and config != running:
        steps.append(
            Command(
                ("docker", "exec", "-i", proxy.name, "proxy", "configure"),
                f"{service.name}: check the changed configuration, then take it over",
                feed=("tar", "-c", "-C", f"{service.build_context}/{PROXY_CONF}", "."),
                timeout_s=60,
            )
        )
    return steps
