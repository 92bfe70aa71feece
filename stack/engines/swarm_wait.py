"""When Swarm has done what it was told, and when it never will: pure, from a snapshot."""

import math
from collections.abc import Sequence
from functools import partial

from stack.engines.swarm_model import Cluster
from stack.errors import ReplicaFailed
from stack.model import Replica, Service, Snapshot, Update
from stack.plan import LOG_LINES, Await, Steps

# What Swarm calls a change that it is at work on, and one that it has given up.
UNDER_WAY = ("updating", "rollback_started")
BACK = "rollback_completed"
GIVEN_UP = ("paused", "rollback_paused", BACK)

# The one before has not given it back yet: Swarm tries again.
PORT_TAKEN, PORT_OF_NODE = "port is already allocated", "host-mode port"
# How long it has to stay so: then it was not the state before the change. The proxy knows those
# that are routed to a bit later: it asks Swarm's DNS every 2 s.
STEADY_S, KNOWN_S = 1.0, 3.0
# What Swarm says of a replica that has nowhere to go.
NO_NODE = "no suitable node"


def wait_for(cluster: Cluster, service: Service, count: int) -> Await:
    """Wait until Swarm has done what it was told for this service, or has given up."""
    name = service.name
    full = f"{cluster.snapshot.project}_{name}"
    # What a person would look at: how many run of how many, and whether a change is under way.
    running = f"docker service ls --filter name={full} --format '{{{{.Name}}}} {{{{.Replicas}}}}'"
    all_run = f'$1 == "{full}" {{split($2, n, "/"); all = n[1] == n[2]}} END {{exit !all}}'
    state = (
        "docker service inspect --format "
        f"'{{{{if .UpdateStatus}}}}{{{{.UpdateStatus.State}}}}{{{{end}}}}' {full}"
    )
    steady_s = KNOWN_S if service.port is not None else STEADY_S
    shell = (
        f"until {running} | awk '{all_run}' && ! {state} | grep -qE '{'|'.join(UNDER_WAY)}'; "
        f"do sleep 1; done; sleep {steady_s:g}; ! {state} | grep -E '{'|'.join(GIVEN_UP)}'"
    )
    batches = math.ceil(count / service.update.parallelism) if service.update.parallelism else 1
    update = service.update
    turn_s = service.start_timeout_s + service.stop_grace_s + update.delay_s + 10
    return Await(
        steady_s=steady_s,
        service=name,
        holds=partial(
            _is_settled, before=cluster.snapshot, service=name, is_patient=bool(service.needs)
        ),
        late=partial(_late, service=name),
        shell=shell,
        # There, and if need be back.
        timeout_s=2 * max(1, batches) * turn_s + update.monitor_s + 30,
        why=f"{name}: wait until Swarm has done it",
        log=lambda task: ("docker", "service", "logs", "--raw", "--tail", str(LOG_LINES), task),
    )


def wait_for_earlier(cluster: Cluster, services: Sequence[Service]) -> Steps:
    """Let changes end that are under way: after another one in between, Swarm would go back to half
    of the one before.
    """
    there = [(one, cluster.services.get(one.name)) for one in services]
    return [
        wait_for(cluster, service, found.replicas or len(cluster.nodes))
        for service, found in there
        if found and found.state in UNDER_WAY
    ]


def is_as_told(cluster: Cluster, service: Service) -> bool:
    """Whether there is nothing to wait for."""
    try:
        return _is_settled(cluster.snapshot, cluster.snapshot, service.name)
    except ReplicaFailed:
        # Whoever waits for it is told why.
        return False


def _is_settled(
    snapshot: Snapshot, before: Snapshot, service: str, *, is_patient: bool = False
) -> bool:
    """Whether all that Swarm was told of a service is so. `before`: what there was then.

    Raises ReplicaFailed where Swarm has given up, or where what it makes fails again and again.
    `is_patient`: it may fail for as long as it is waited for, since what it needs may be late.
    """
    update = snapshot.updates.get(service)
    if update is None or update.state in UNDER_WAY:
        return False
    earlier = before.updates.get(service, Update())
    # It keeps the time at which a change began until it has given that up.
    if update.state in GIVEN_UP and (update.state, update.began) != (earlier.state, earlier.began):
        raise _given_up(snapshot, service, update, earlier)
    mine = snapshot.of(service)
    goal = [one for one in mine if one.config_hash == update.config_hash and not one.draining]
    there = [one for one in goal if one.is_ready or one.is_done]
    enough = bool(there) if update.wanted is None else len(there) == update.wanted
    if enough and len(there) == len(goal) == len(mine):
        return True
    if failed := _fails_for_good(update, earlier, mine, is_patient=is_patient):
        raise _replica_failed(service, failed, "")
    nowhere = [one for one in goal if NO_NODE in one.reason and PORT_OF_NODE not in one.reason]
    if nowhere:
        raise _replica_failed(service, nowhere[0], "")
    return False


def _fails_for_good(
    update: Update, earlier: Update, mine: Sequence[Replica], *, is_patient: bool
) -> Replica | None:
    """The last failure of a replica that has failed twice, or will not be made anew."""
    failed = [
        one
        for one in _new_failures(update, earlier)
        if one.config_hash == update.config_hash and PORT_TAKEN not in one.reason
    ]
    for one in failed:
        again = [other for other in failed if other.name == one.name]
        if (len(again) > 1 and not is_patient) or one.name not in {other.name for other in mine}:
            return one
    return None


def _late(snapshot: Snapshot, service: str) -> ReplicaFailed:
    update = snapshot.updates.get(service, Update())
    mine = snapshot.of(service)
    ready = [r for r in mine if r.is_ready and r.config_hash == update.config_hash]
    waiting = [one for one in (*mine, *update.failures) if one.reason]
    why = f" ({waiting[0].name}: {waiting[0].reason})" if waiting else ""
    wanted = update.wanted or "all"
    what = f"{len(ready)} of {wanted} replicas ready in the time that this may take{why}"
    late = tuple(one.id for one in mine if not one.is_ready)
    return ReplicaFailed(service, what, replicas=late)


def _given_up(snapshot: Snapshot, service: str, update: Update, earlier: Update) -> ReplicaFailed:
    revisions = sorted({one.revision for one in snapshot.of(service) if one.is_ready})
    state = {
        BACK: f"Swarm has gone back to revision {', '.join(revisions)}",
        "paused": "Swarm has stopped there: revisions "
        f"{', '.join(revisions)} run. Go back: python -m stack rollback {service}",
        "rollback_paused": f"and so did going back. Swarm has stopped: {update.message}",
    }[update.state]
    failed = _new_failures(update, earlier)
    if not failed:
        return ReplicaFailed(service, f"a new replica failed. {state}")
    return _replica_failed(service, failed[0], f". {state}")


def _replica_failed(service: str, replica: Replica, state: str) -> ReplicaFailed:
    where = f" on {replica.node}" if replica.node else ""
    what = f"{replica.name}{where} failed: {replica.reason or 'no reason given'}{state}"
    return ReplicaFailed(service, what, replicas=(replica.id,))


def _new_failures(update: Update, earlier: Update) -> list[Replica]:
    known = {replica.id for replica in earlier.failures}
    return [replica for replica in update.failures if replica.id not in known]
