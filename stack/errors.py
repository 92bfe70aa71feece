"""The errors that end a run, each with its exit code (the numbers are those of sysexits.h)."""

# What a manager says while its Swarm has no leader, or changes it (moby#35109, moby#36696).
LEADERLESS = (
    "does not have a leader",
    "lost leader status",
    "no elected primary",
    "not a swarm manager",
    "code = DeadlineExceeded",
    "code = Unavailable",
)
NO_LEADER = (
    "the Swarm has no leader just now: it takes more than half of its managers. What runs, runs "
    "on, but nothing can be changed (docs/swarm.md)"
)
# Those that ask a manager. What others say, a build for one, may look alike.
ASK_A_MANAGER = ("docker service ", "docker stack ", "docker secret ", "docker config ")


class StackError(Exception):
    """Something went wrong, and its text says what, to what, and what to do next."""

    exit_code = 1


class UsageError(StackError):
    """The command line asks for something that does not exist or makes no sense."""

    exit_code = 2


class EngineUnavailable(StackError):
    """Docker Engine or Compose is absent, too old, or does not answer."""

    exit_code = 69


class NoAnswer(EngineUnavailable):
    """A command that only looks takes too long."""


class LockHeld(StackError):
    """Another run is changing the same project."""

    exit_code = 75


class NotPermitted(StackError):
    """The engine is there, but this user may not use it."""

    exit_code = 77


class ConfigurationError(StackError):
    """The Compose file or the proxy's configuration is wrong."""

    exit_code = 78


class Interrupted(Exception):
    """A signal asked the run to stop, `in_a_hurry` if it was not the first; exit code 128 + the
    signal's number. No StackError: what goes on without an answer has to stop all the same.
    """

    def __init__(self, signal_number: int, *, in_a_hurry: bool = False) -> None:
        super().__init__("interrupted")
        self.exit_code = 128 + signal_number
        self.in_a_hurry = in_a_hurry


class CommandFailed(StackError):
    """A command of a plan ended with an exit code other than 0."""

    def __init__(self, command: str, exit_code: int, output: str) -> None:
        # One that reads a text, a whole file, has it in the lines below.
        line = command.splitlines()[0]
        super().__init__(f"exit code {exit_code}: {line}")
        self.output = output
        self.leaderless = any(verb in line for verb in ASK_A_MANAGER) and any(
            text in output for text in LEADERLESS
        )
        if self.leaderless:
            self.exit_code = EngineUnavailable.exit_code
        # Any other command may mean something else by this number.
        if exit_code == ConfigurationError.exit_code and " proxy " in command:
            self.exit_code = ConfigurationError.exit_code


class ReplicaFailed(StackError):
    """New replicas (their ids) did not get ready, or did not stay so. `evidence`: the last that
    one of them said.
    """

    def __init__(
        self, service: str, what: str, evidence: str = "", replicas: tuple[str, ...] = ()
    ) -> None:
        super().__init__(f"{service}: {what}{evidence}")
        self.service = service
        self.what = what
        self.evidence = evidence
        self.replicas = replicas
