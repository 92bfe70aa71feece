"""The proxy's part of a plan: when it needs a new container, and when only a new configuration."""

from collections.abc import Mapping, Sequence

from stack.model import STARTING, UNHEALTHY, Service, Snapshot
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


def proxy_is_outdated(snapshot: Snapshot) -> bool:
    """Whether the proxy needs a new container: its program or settings differ from today's."""
    service, proxy = proxy_service(snapshot), snapshot.proxy
    if service is None or proxy is None:
        return False
    if service.revision:
        return program_of(proxy.revision) != program_of(service.revision)
    return not proxy.is_current(service)


def proxy_is_missing(snapshot: Snapshot) -> bool:
    """Whether it has to be started, and will not be made anew anyway."""
    if proxy_service(snapshot) is None or (snapshot.proxy and snapshot.proxy.is_live):
        return False
    return not proxy_is_outdated(snapshot)


def renew_proxy(
    snapshot: Snapshot,
    revisions: Mapping[str, str],
    config: str | None,
    compose: Sequence[str],
    env: tuple[tuple[str, str], ...],
) -> Steps:
    """Bring the proxy up to date: a new container only where it needs one, a new configuration
    is installed into the running one. `config` is the digest of the configuration on disk.
    """
    service, proxy = proxy_service(snapshot), snapshot.proxy
    if service is None:
        return []
    ready = _ready(snapshot, service)
    if proxy is None:
        return [ready]
    if proxy_is_outdated(snapshot):
        renew = Command(
            (*compose, "up", "--detach", "--no-build", "--no-deps", service.name),
            f"{service.name}: its program or settings have changed. One port, one proxy: "
            "there is no answer for about a second",
            env,
        )
        # It starts with the configuration that its image was built with.
        built_with = revisions.get(service.name, "").partition("-")[2]
        return [renew, ready, *_configure(service, proxy.name, built_with, config)]
    configure = _configure(service, proxy.name, snapshot.proxy_config, config)
    if proxy.is_ready:
        return configure
    # A running nginx may be ill because of its configuration: then the new one is the cure.
    return [*configure, ready] if proxy.state == UNHEALTHY else [ready, *configure]


def wait_for_proxy(snapshot: Snapshot) -> Steps:
    """Wait until a proxy that has just been started answers; nothing otherwise."""
    service, proxy = proxy_service(snapshot), snapshot.proxy
    starting = service and proxy and proxy.state == STARTING
    return [_ready(snapshot, service)] if service and starting else []


def _ready(snapshot: Snapshot, service: Service) -> WaitReady:
    why = f"{service.name}: wait until it answers"
    return WaitReady(snapshot.project, service, 1, service.start_timeout_s, why)


def _configure(service: Service, name: str, running: str | None, config: str | None) -> Steps:
    if not config or config == running:
        return []
    return [
        Command(
            ("docker", "exec", "-i", name, "proxy", "configure"),
            f"{service.name}: check the changed configuration, then take it over",
            feed=("tar", "-c", "-C", f"{service.build_context}/{PROXY_CONF}", "."),
            timeout_s=60,
        )
    ]
