#!/usr/bin/env bash
# Writes the lock files: every package with its version and hashes.
set -euo pipefail

venv=$PWD/.venv

compile() {
	"$venv"/bin/pip-compile --quiet --generate-hashes --strip-extras --allow-unsafe --no-header \
		--no-emit-index-url --no-emit-trusted-host --no-emit-find-links "$@"
}

compile --output-file requirements.lock pyproject.toml
compile --extra dev --constraint requirements.lock --output-file requirements-dev.lock pyproject.toml
cd web && compile --output-file requirements.txt requirements.in
