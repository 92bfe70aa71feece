"""A Swarm of three managers, and a registry with TLS and a password. One story: each test goes on
from where the one before it has left the Swarm.
"""

from collections.abc import Iterator
from pathlib import Path

import bcrypt
import pytest
import trustme

from tests.e2e.harness import Stack, background, eventually
from tests.e2e.lab import assert_whole, new_revision
from tests.e2e.rig import SUBNET, Node
from tests.e2e.swarm import (
    REGISTRY,
    answers,
    registry_image,
    stack_on,
    start_registry,
    swarm,
    wait_for_nodes,
)

pytestmark = pytest.mark.swarm

USER, PASSWORD = "teacher", "correct horse"
MOTTO = """secrets:
  motto:
    file: motto.txt
"""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the registry needs: ca.pem, key.pem, cert.pem and a password file."""
    directory = tmp_path_factory.mktemp("registry")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(directory / "ca.pem"))
    cert = ca.issue_cert(SUBNET.format(1))
    cert.private_key_pem.write_to_path(str(directory / "key.pem"))
    cert.cert_chain_pems[0].write_to_path(str(directory / "cert.pem"))
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    (directory / "htpasswd").write_text(f"{USER}:{hashed}\n")
    return directory


@pytest.fixture(scope="module")
def nodes(certificates: Path) -> Iterator[list[Node]]:
    with swarm(3, managers=3, ca=certificates / "ca.pem") as nodes:
        yield nodes


@pytest.fixture(scope="module")
def cluster(
    nodes: list[Node], certificates: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A stack on three managers. Nothing is deployed yet, nobody is logged in."""
    stack = Stack()
    directory = tmp_path_factory.mktemp("cluster")
    try:
        stack_on(nodes, directory / "stack", stack)
        stack.registry = start_registry(
            nodes[0],
            registry_image(directory),
            *("--volume", f"{certificates}:/certs:ro"),
            *("--env", "REGISTRY_HTTP_TLS_CERTIFICATE=/certs/cert.pem"),
            *("--env", "REGISTRY_HTTP_TLS_KEY=/certs/key.pem"),
            *("--env", "REGISTRY_AUTH=htpasswd", "--env", "REGISTRY_AUTH_HTPASSWD_REALM=lab"),
            *("--env", "REGISTRY_AUTH_HTPASSWD_PATH=/certs/htpasswd"),
        )
        stack.docker_config = directory / "docker"
        stack.docker_config.mkdir()
        yield stack
    finally:
        stack.docker_host = ""
        stack.remove()


def test_without_a_registry_other_nodes_are_named_and_nothing_is_deployed(cluster: Stack) -> None:
    registry, cluster.registry = cluster.registry, ""
    done = cluster.try_run("up")
    cluster.registry = registry
    assert done.returncode == 1
    assert "node2, node3) cannot get images" in done.stderr
    assert cluster.docker("service", "ls", "--quiet") == ""


def test_a_push_without_a_password_says_so(cluster: Stack) -> None:
    done = cluster.try_run("push", "web")
    assert done.returncode == 1
    assert "no basic auth credentials" in done.stderr
    assert "Traceback" not in done.stderr


def test_images_reach_every_node_by_digest_through_tls_and_with_a_password(
    cluster: Stack,
) -> None:
    cluster.docker(
        *("login", "--username", USER, "--password-stdin", cluster.registry), feed=PASSWORD
    )
    cluster.run("up", "web=3")
    assert {row["node"] for row in cluster.web()} == {"node1", "node2", "node3"}
    image = cluster.docker(
        *("service", "inspect", f"{cluster.project}_web"),
        *("--format", "{{.Spec.TaskTemplate.ContainerSpec.Image}}"),
    )
    assert image.startswith(f"{cluster.registry}/{cluster.project}-web:")
    assert "@sha256:" in image
    assert "Nothing to do" in cluster.try_run("up").stderr


def test_going_back_needs_no_registry_where_nodes_have_the_image(
    cluster: Stack, nodes: list[Node]
) -> None:
    before = cluster.web()[0]["revision"]
    new_revision(cluster)
    cluster.run("rollout")
    assert {row["revision"] for row in cluster.web()} != {before}
    nodes[0].docker("stop", REGISTRY)
    cluster.run("rollback")
    assert_whole(cluster, 3, before)
    tasks = cluster.docker(
        "service", "ps", "--format", "{{.CurrentState}} {{.Error}}", f"{cluster.project}_web"
    )
    assert "Rejected" not in tasks, "a node that has the image asked for it all the same"
    assert [row["restarts"] for row in cluster.web()] == [0, 0, 0]
    nodes[0].docker("start", REGISTRY)


def test_each_manager_has_a_proxy_until_nodes_are_chosen_by_a_label(
    cluster: Stack, nodes: list[Node]
) -> None:
    proxies = [row["node"] for row in cluster.ps() if row["service"] == "proxy"]
    assert sorted(proxies) == ["node1", "node2", "node3"]
    for node in nodes:
        assert answers(node, cluster)
    nodes[0].docker("node", "update", "--label-add", "stack.proxy=true", "node3")
    cluster.run("up")
    assert [row["node"] for row in cluster.ps() if row["service"] == "proxy"] == ["node3"]
    nodes[0].docker("node", "update", "--label-rm", "stack.proxy", "node3")
    cluster.run("up")


def test_a_file_becomes_a_secret_and_a_changed_file_another_one(
    cluster: Stack, nodes: list[Node]
) -> None:
    (cluster.directory / "motto.txt").write_text("festina lente")
    before = "\n    healthcheck:\n      # 9 ms"
    cluster.edit("compose.yaml", before, f"\n    secrets: [motto]{before}")
    cluster.edit("compose.yaml", "secrets:\n  #", f"{MOTTO}  #")
    cluster.run("up")
    assert mottos(cluster, nodes) == ["festina lente"] * len(cluster.web())
    (cluster.directory / "motto.txt").write_text("carpe diem")
    cluster.run("up")
    assert mottos(cluster, nodes) == ["carpe diem"] * len(cluster.web())
    named = ("--filter", f"name={cluster.project}_motto")
    names = cluster.docker("secret", "ls", *named, "--format", "{{.Name}}").split()
    assert len(names) == 1, "the old one has gone"


def test_one_manager_of_three_can_be_lost_and_a_second_one_stops_changes_only(
    cluster: Stack, nodes: list[Node]
) -> None:
    first, second, third = nodes
    # Whoever is asked is to survive; the registry goes with the first node, which leads.
    cluster.run("up", "web=4")
    cluster.docker_host = second.host
    name = f"{cluster.project}_web"
    replicas = ("service", "inspect", "--format", "{{.Spec.Mode.Replicated.Replicas}}", name)
    with background(cluster, "scale", "web=3") as scale:
        eventually(lambda: second.docker(*replicas) == "3", "it is told")
        first.kill()
        _, said = scale.communicate(timeout=120)
        assert scale.returncode == 0, said
    wait_for_nodes(second, node1="down")
    eventually(
        lambda: (
            {row["node"] for row in cluster.web()} == {"node2", "node3"}
            and [row["state"] for row in cluster.web()] == ["healthy"] * 3
        ),
        "replicas have moved",
        within_s=60,
    )
    cluster.run("scale", "web=4")
    assert_whole(cluster, 4)
    third.kill()

    def says_no_leader() -> bool:
        done = cluster.try_run("scale", "web=2")
        assert "Traceback" not in done.stderr
        return done.returncode == 69 and "no leader" in done.stderr

    # At first its engine does not answer at all, which has the same exit code.
    eventually(says_no_leader, "it says that there is no leader", within_s=120)
    assert answers(second, cluster)


def mottos(stack: Stack, nodes: list[Node]) -> list[str]:
    """What each replica that is to run reads from its secret, whichever node it is on.

    What has been replaced may still be there, about to end.
    """
    current = ("--filter", "desired-state=running", "--quiet", "--no-trunc")
    tasks = nodes[0].docker("service", "ps", *current, f"{stack.project}_web").split()
    label = "label=com.docker.swarm.task.id"
    return [
        node.docker("exec", container, "cat", "/run/secrets/motto")
        for node in nodes
        for task in tasks
        for container in node.docker("ps", "--quiet", "--filter", f"{label}={task}").split()
    ]
