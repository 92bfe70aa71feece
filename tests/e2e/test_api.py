"""The API does what its own description says, whatever is sent to it, through the proxy."""

import subprocess
import sys
from pathlib import Path

from tests.e2e.harness import Stack

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
)


def test_whatever_is_sent_only_documented_answers_come(stack_copy: Stack, tmp_path: Path) -> None:
    """Schemathesis makes up requests from openapi.json, right and wrong ones."""
    # It tries the limits, too: a minute of work each would take for ever.
    stack_copy.edit("compose.yaml", "    networks: [web]\n    deploy:\n      replicas: 2", LIMITED)
    stack_copy.run("up")
    done = subprocess.run(
        (
            *(Path(sys.executable).with_name("schemathesis"), "run", "--no-color"),
            *("--max-examples", "50", "--checks", ",".join(CHECKS)),
            f"{stack_copy.url}/api/openapi.json",
        ),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout
    assert "Tested: 4" in done.stdout
    assert [row["restarts"] for row in stack_copy.ps()] == [0, 0, 0]


LIMITED = """    networks: [web]
    environment: {MAX_WORK_MS: "30"}
    deploy:
      replicas: 2"""
