"""What the running containers may do. docs/security.md names a test of these for each check of the
CIS Docker Benchmark, sections 4 and 5.
"""

import os
from typing import Any

import pytest

from tests.e2e.harness import Stack, engine, eventually

SERVICES = ("web", "proxy")
NO_WAY_OUT = """import socket
socket.create_connection(("192.0.2.1", 80), 1)"""
SENSITIVE = ("/", "/boot", "/dev", "/etc", "/lib", "/proc", "/sys", "/usr", "/var/run", "/run")


@pytest.fixture(params=SERVICES)
def inspected(request: pytest.FixtureRequest, running: Stack) -> dict[str, Any]:
    """What `docker inspect` says of a running container of each service."""
    container = running.containers(request.param)[0]
    return dict(container.attrs)


@pytest.fixture(params=SERVICES)
def image(request: pytest.FixtureRequest, running: Stack) -> str:
    """The id of the image that a service runs on."""
    return str(running.containers(request.param)[0].attrs["Image"])


def in_image(image: str, *argv: str) -> str:
    """What a command prints that may read everything in the image."""
    output = engine().containers.run(
        image, list(argv), entrypoint="", user="0", network_mode="none", remove=True
    )
    assert isinstance(output, bytes)
    return output.decode()


def test_a_user_without_a_name_runs_it_and_it_is_not_root(inspected: dict[str, Any]) -> None:
    user, _, group = inspected["Config"]["User"].partition(":")
    assert int(user) > 0
    assert int(group) > 0


def test_no_program_in_an_image_has_the_setuid_or_setgid_bit(image: str) -> None:
    assert in_image(image, "find", "/", "-xdev", "-type", "f", "-perm", "/6000") == ""


def test_what_an_image_does_not_need_to_run_is_not_in_it(image: str) -> None:
    wanted = ("gcc", "make", "git", "ssh", "sshd", "wget", "docker", "nc", "telnet")
    script = 'for name; do command -v "$name"; done; true'
    assert in_image(image, "sh", "-c", script, "sh", *wanted) == ""


def test_images_are_named_by_their_revision_and_never_latest(running: Stack) -> None:
    for row in running.ps():
        name = f"{running.project}-{row['service']}:{row['revision']}"
        found = engine().images.get(name)
        assert found.attrs["Config"]["Labels"]["org.opencontainers.image.revision"] in name
        assert not [tag for tag in found.tags if tag.endswith(":latest")]


def test_health_is_checked(inspected: dict[str, Any]) -> None:
    assert inspected["Config"]["Healthcheck"]["Test"][0] == "CMD"
    assert inspected["State"]["Health"]["Status"] == "healthy"


def test_the_profiles_of_the_engine_are_in_force(inspected: dict[str, Any]) -> None:
    """seccomp, AppArmor, SELinux: nothing switches off what the engine has."""
    assert inspected["HostConfig"]["SecurityOpt"] == ["no-new-privileges:true"]
    options = engine().info()["SecurityOptions"]
    assert any("name=seccomp,profile=builtin" in one for one in options)
    if any("name=apparmor" in one for one in options):
        assert inspected["AppArmorProfile"] == "docker-default"


def test_it_has_no_capability_and_can_get_none(inspected: dict[str, Any], running: Stack) -> None:
    host = inspected["HostConfig"]
    assert host["Privileged"] is False
    assert host["CapAdd"] is None
    assert host["CapDrop"] == ["ALL"]
    script = "grep -E '^(Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs|Seccomp):' /proc/1/status"
    output = running.docker("exec", inspected["Name"].strip("/"), "sh", "-c", script)
    status = dict(line.split() for line in output.splitlines())
    assert {value for name, value in status.items() if name.startswith("Cap")} == {"0" * 16}
    assert status["NoNewPrivs:"] == "1"
    assert status["Seccomp:"] == "2", "a filter is in force"


def test_nothing_of_the_host_is_mounted(inspected: dict[str, Any]) -> None:
    """No directory, no device, no Docker socket: volumes, and files that are secrets."""
    assert not inspected["HostConfig"]["Devices"]
    for mount in inspected["Mounts"]:
        assert mount["Propagation"] not in ("shared", "rshared")
        if mount["Type"] == "bind":
            assert mount["Destination"].startswith("/run/secrets/"), mount
            assert mount["RW"] is False
            # None is used here, and what is not has to be there on a remote engine, too.
            assert mount["Source"] == os.devnull
            assert mount["Source"] not in SENSITIVE
            assert "docker.sock" not in mount["Source"]


def test_no_namespace_of_the_host_is_shared(inspected: dict[str, Any], running: Stack) -> None:
    host = inspected["HostConfig"]
    assert host["PidMode"] == ""
    assert host["IpcMode"] == "private"
    assert host["UTSMode"] == ""
    assert host["UsernsMode"] == ""
    assert host["CgroupnsMode"] != "host" or engine().info()["CgroupVersion"] == "1"
    # Networks of its own, and not Docker's default one, on which all containers meet.
    assert host["NetworkMode"].startswith(f"{running.project}_")
    assert set(inspected["NetworkSettings"]["Networks"]) <= {
        f"{running.project}_{name}" for name in ("edge", "web")
    }


def test_memory_cpu_processes_and_logs_have_limits(inspected: dict[str, Any]) -> None:
    host = inspected["HostConfig"]
    assert host["Memory"] > 0
    assert host["NanoCpus"] > 0
    assert host["PidsLimit"] == 64
    assert host["CgroupParent"] == ""
    assert host["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "3"}


def test_the_root_file_system_is_read_only(inspected: dict[str, Any], running: Stack) -> None:
    assert inspected["HostConfig"]["ReadonlyRootfs"] is True
    name = inspected["Name"].strip("/")
    script = "for d in / /etc /srv /usr/local/bin; do touch $d/x 2>/dev/null && echo $d; done; true"
    # As root, whom the owners of files do not hold back.
    assert running.docker("exec", "--user", "0", name, "sh", "-c", script) == ""


def test_only_the_proxy_publishes_a_port_and_on_this_machine_alone(running: Stack) -> None:
    for container in running.containers():
        bindings = container.attrs["HostConfig"]["PortBindings"] or {}
        if container.attrs["Config"]["Labels"]["com.docker.compose.service"] != "proxy":
            assert bindings == {}
            continue
        assert list(bindings) == ["8080/tcp"], "no privileged port in the container either"
        assert [one["HostIp"] for one in bindings["8080/tcp"]] == ["127.0.0.1"]


def test_the_app_has_no_way_out_of_its_network(running: Stack) -> None:
    network = engine().networks.get(f"{running.project}_web")
    assert network.attrs["Internal"] is True
    with pytest.raises(AssertionError, match="unreachable"):
        running.compose("exec", "-T", "web", "python3", "-c", NO_WAY_OUT)


def test_nothing_but_the_service_itself_runs_in_it(running: Stack) -> None:
    def alone(service: str, program: str) -> bool:
        processes = running.containers(service)[0].top()["Processes"] or []
        return bool(processes) and all(program in process[-1] for process in processes)

    # But for a moment now and then, in which the health check runs.
    eventually(lambda: alone("web", "gunicorn"), "gunicorn alone")
    eventually(lambda: alone("proxy", "nginx"), "nginx alone")
