"""The Compose file as `docker stack deploy` takes it."""

import pytest
import yaml

from stack.engines.swarm_file import Deployment, notes, stack_file
from stack.errors import ConfigurationError
from tests.unit.swarm_samples import DIGESTS, DOCUMENT, IMAGES, SERVICES, made


def test_what_swarm_does_not_take_is_left_out_or_has_its_name_there() -> None:
    web = made()["services"]["web"]
    assert "build" not in web
    assert "depends_on" not in web
    assert "security_opt" not in web
    assert "command" not in web
    assert web["image"] == "registry.local:5000/stack-web:abc"
    assert web["deploy"]["resources"]["limits"]["cpus"] == "1.5"
    assert web["deploy"]["restart_policy"] == {"condition": "any"}
    assert "placement" not in web["deploy"]


def test_what_swarm_passes_over_in_silence_is_said_in_another_way() -> None:
    web = made()["services"]["web"]
    assert "tmpfs" not in web
    assert {"type": "tmpfs", "target": "/cache", "tmpfs": {"size": 64 << 20}} in web["volumes"]


def test_replicas_are_found_by_dns_and_replaced_as_the_compose_file_says() -> None:
    deploy = made(counts={"web": 5})["services"]["web"]["deploy"]
    assert deploy["endpoint_mode"] == "dnsrr"
    assert deploy["replicas"] == 5
    assert deploy["update_config"] == {
        "parallelism": 1,
        "delay": "0s",
        "order": "start-first",
        "monitor": "2s",
        "failure_action": "rollback",
        "max_failure_ratio": 0,
    }
    assert deploy["rollback_config"]["failure_action"] == "pause"


def test_a_replica_serves_on_for_as_long_as_nginx_may_go_by_an_older_answer_of_dns() -> None:
    services = made()["services"]
    assert services["web"]["environment"] == {"STOP_DELAY": "3"}
    assert "environment" not in services["proxy"]


def test_the_proxy_is_published_by_its_own_node_and_has_one_task_on_each_that_may_have_it() -> None:
    proxy = made(proxy_on="node.labels.stack.proxy == true")["services"]["proxy"]
    assert proxy["ports"] == [
        {"target": 8080, "published": 8080, "protocol": "tcp", "mode": "host"}
    ]
    assert proxy["deploy"]["mode"] == "global"
    assert "replicas" not in proxy["deploy"]
    assert proxy["deploy"]["placement"]["constraints"] == ["node.labels.stack.proxy == true"]
    assert proxy["deploy"]["update_config"]["order"] == "stop-first"


def test_where_every_node_publishes_the_proxy_it_has_one_address() -> None:
    proxy = made(publish="ingress")["services"]["proxy"]
    assert proxy["ports"][0]["mode"] == "ingress"
    assert proxy["deploy"]["endpoint_mode"] == "vip"
    assert proxy["deploy"]["replicas"] == 1


def test_a_volume_of_no_value_goes_with_its_container() -> None:
    proxy = made()["services"]["proxy"]
    assert proxy["volumes"] == [{"type": "volume", "target": "/var/lib/proxy"}]


def test_only_what_the_services_use_is_made_and_networks_span_nodes() -> None:
    file = made()
    assert file["networks"] == {
        "edge": {"name": "stack_edge", "driver": "overlay"},
        "web": {"name": "stack_web", "internal": True, "driver": "overlay"},
    }
    assert file["volumes"] == {"data": {"name": "stack_data"}}


def test_a_file_becomes_a_secret_whose_name_changes_with_its_contents() -> None:
    file = made()
    assert file["secrets"] == {"key": {"name": "stack_key_0a1b2c3", "file": "key.txt"}}
    assert file["services"]["web"]["secrets"] == [{"source": "key", "mode": 0o440}]


def test_what_somebody_waits_for_to_end_is_not_started_again() -> None:
    document = {**DOCUMENT, "services": dict(DOCUMENT["services"])}
    document["services"]["migrate"] = {"image": "stack-migrate:abc"}
    file = stack_file(document, SERVICES, Deployment(images={"migrate": "m:1"}))
    assert file["services"]["migrate"]["deploy"]["restart_policy"] == {"condition": "none"}


def test_a_number_of_attempts_is_kept() -> None:
    file = made(images={"migrate": "m:1"})
    policy = file["services"]["migrate"]["deploy"]["restart_policy"]
    assert policy == {"condition": "on-failure", "max_attempts": 3}


def test_what_swarm_cannot_do_is_noted() -> None:
    found = "\n".join(notes(DOCUMENT, SERVICES, Deployment(images=IMAGES)))
    assert "Swarm has no security_opt: web" in found
    assert "proxy: Swarm publishes its port on all addresses" in found
    assert "web: a volume is each node's own" in found
    assert "depends_on" not in found


def test_a_range_of_ports_and_a_config_without_a_file_are_refused() -> None:
    document = yaml.safe_load(yaml.safe_dump(DOCUMENT))
    document["services"]["proxy"]["ports"][0]["published"] = "8080-8090"
    with pytest.raises(ConfigurationError, match="8080-8090"):
        stack_file(document, SERVICES, Deployment(images=IMAGES, digests=DIGESTS))
    document = yaml.safe_load(yaml.safe_dump(DOCUMENT))
    document["secrets"]["key"] = {"environment": "KEY"}
    with pytest.raises(ConfigurationError, match="key"):
        stack_file(document, SERVICES, Deployment(images=IMAGES, digests=DIGESTS))
