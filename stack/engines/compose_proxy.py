"""The proxy's part of a plan: when it needs a new container, and when only a new configuration."""

from collections.abc import Sequence

from stack.model import RESTARTING, STARTING, UNHEALTHY, Service, Snapshot
from stack.plan import Command, Env, Steps, Those, WaitReady
from stack.revision import PROXY_CONF, program_of


def proxy_name(snapshot: Snapshot) -> str:
    """The name of the proxy's container, also before Compose has made it."""
    if snapshot.proxy:
        return snapshot.proxy.name
    service = proxy_service(snapshot)
    return f"{snapshot.project}-{service.name if service else 'proxy'}-1"


def proxy_service(snapshot: Snapshot) -> Service | None:
    return next((service for service in snapshot.services if service.is_proxy), None)


def proxy_serves(snapshot: Snapshot) -> bool:
    """Whether there is a proxy that can be talked to: one that ends over and over cannot."""
    proxy = snapshot.proxy
    return proxy is not None and proxy.is_live and proxy.state != RESTARTING


def proxy_revision(snapshot: Snapshot, wanted: str) -> str:
    """The revision to name to Compose: the running proxy's, as long as only the configuration
    differs, so that Compose leaves its container alone.
    """
    proxy = snapshot.proxy
    if proxy and proxy_serves(snapshot) and program_of(proxy.revision) == program_of(wanted):
        return proxy.revision
    return wanted


def proxy_is_renewed(snapshot: Snapshot) -> bool:
    """Whether it gets a new container: it does not serve, or its program or settings differ."""
    service, proxy = proxy_service(snapshot), snapshot.proxy
    if service is None:
        return False
    if proxy is None or not proxy_serves(snapshot):
        return True
    if service.revision:
        return program_of(proxy.revision) != program_of(service.revision)
    return not proxy.is_current(service)


def renew_proxy(snapshot: Snapshot, config: str | None, compose: Sequence[str], env: Env) -> Steps:
    """Bring the proxy up to date: a new container only where it needs one; a new configuration
    is installed into the running one. `config` is the digest of the configuration on disk.
    """
    service, proxy = proxy_service(snapshot), snapshot.proxy
    if service is None:
        return []
    ready = _ready(snapshot, service)
    if proxy and not proxy_is_renewed(snapshot):
        configure = _configure(service, proxy.name, snapshot.proxy_config, config)
        if proxy.is_ready:
            return configure
        # A running nginx may be ill because of its configuration: then the new one is the cure.
        return [*configure, ready] if proxy.state == UNHEALTHY else [ready, *configure]
    why = f"{service.name}: start it"
    if proxy_serves(snapshot):
        why = (
            f"{service.name}: its program or settings have changed. One port, one proxy: "
            "there is no answer for about a second"
        )
    # Compose would start one that ends over and over just as it was.
    anew = ("--force-recreate",) if proxy and proxy.state == RESTARTING else ()
    start = Command(
        (*compose, "up", "--detach", "--no-build", "--no-deps", *anew, service.name), why, env
    )
    # It starts with the configuration that its image was built with.
    built_with = service.revision.partition("-")[2]
    configure = _configure(service, proxy_name(snapshot), built_with, config)
    check = Command(
        (*compose, "run", "--rm", "--no-deps", "--no-TTY", service.name, "proxy", "try"),
        f"{service.name}: does nginx accept configuration and settings",
        env,
    )
    return [*([check] if service.revision else []), start, ready, *configure]


def restart_proxy(snapshot: Snapshot, reason: str = "") -> Steps:
    """Start the proxy's container again, with the lists that it has."""
    service, proxy = proxy_service(snapshot), snapshot.proxy
    if service is None or proxy is None:
        return []
    return [
        Command(
            ("docker", "restart", "-t", str(service.stop_grace_s), proxy.name),
            f"{service.name}: {reason}{', and ' if reason else ''}one port, one proxy: there is no "
            "answer for about a second",
        ),
        _ready(snapshot, service),
    ]


def try_image(service: Service) -> Steps:
    """Ask nginx whether it accepts the configuration in the image."""
    if not service.revision:
        return []
    return [
        Command(
            (
                *("docker", "run", "--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp"),  # noqa: S108
                *(service.image, "proxy", "try"),
            ),
            f"{service.name}: does nginx accept the configuration",
        )
    ]


def wait_for_proxy(snapshot: Snapshot) -> Steps:
    """Wait until a proxy that has just been started answers; nothing otherwise."""
    service, proxy = proxy_service(snapshot), snapshot.proxy
    starting = service and proxy and proxy.state == STARTING
    return [_ready(snapshot, service)] if service and starting else []


def _ready(snapshot: Snapshot, service: Service) -> WaitReady:
    why = f"{service.name}: wait until it answers"
    return WaitReady(Those(snapshot.project, service, 1), service.start_timeout_s, why)


def _configure(service: Service, name: str, running: str | None, config: str | None) -> Steps:
    if not config or config == running:
        return []
    return [
        Command(
            ("docker", "exec", "-i", name, "proxy", "configure"),
            f"{service.name}: check the changed configuration, then take it over",
            feed=(("tar", "-c", "-C", f"{service.build_context}/{PROXY_CONF}", "."),),
            timeout_s=60,
        )
    ]
