# Two commands do everything: `make up` and `make test`. `make help` lists the others.

PYTHON ?= python3
VENV   := .venv

.DEFAULT_GOAL := help
.PHONY: help up down test unit e2e browser proof proof-swarm lint sbom audit screenshots reference format lock engine venv clean

help: ## list the targets
	@sed -nE 's/^([a-z0-9-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

up: engine venv ## build and start the stack, whatever the machine has so far
	@$(VENV)/bin/python -m stack up

down: venv ## stop and remove the stack
	@$(VENV)/bin/python -m stack down

test: engine venv-dev browser lint ## everything: linters, unit tests, end-to-end tests on the real engine
	$(VENV)/bin/python -m pytest

unit: venv-dev ## unit tests alone: a few seconds, no Docker
	$(VENV)/bin/python -m pytest tests/unit stack

e2e: engine venv-dev browser ## end-to-end tests alone
	$(VENV)/bin/python -m pytest tests/e2e

proof: engine venv-dev ## repeat the scenarios under load (REPEAT=5), write docs/proof.md
	$(VENV)/bin/python -m tests.proof

proof-swarm: engine venv-dev ## likewise on a Swarm of two nodes
	$(VENV)/bin/python -m tests.proof swarm

lint: venv-dev ## ruff, mypy --strict, bandit, shellcheck, hadolint, gixy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/bandit --quiet --recursive --configfile pyproject.toml docs scripts stack web
	$(VENV)/bin/shellcheck scripts/*.sh docs/lessons/begin.sh proxy/bin/proxy .ci/run
	$(VENV)/bin/hadolint web/Dockerfile proxy/Dockerfile
	scripts/lint-nginx.sh
	PYTHONPATH=. $(VENV)/bin/python scripts/reference.py --check

audit: engine venv-dev ## attack a stack with slow clients (AUDIT_SECONDS=30 each), and see what others notice
	scripts/audit-tools.sh
	$(VENV)/bin/python -m tests.audit

sbom: venv-dev ## a bill of materials for each image that runs, in sbom/
	$(VENV)/bin/python scripts/sbom.py

screenshots: engine venv-dev browser ## take the README's pictures anew
	SCREENSHOTS=1 $(VENV)/bin/python -m pytest tests/e2e/test_view.py -k pictured

reference: venv-dev ## write docs/reference.md anew
	PYTHONPATH=. $(VENV)/bin/python scripts/reference.py

format: venv-dev ## format the Python code
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

lock: venv-dev ## write the lock files anew
	scripts/lock.sh

engine: ## make sure that Docker Engine and Compose run
	@scripts/engine.sh

browser: venv-dev ## make sure that there is a Chromium for tests
	@scripts/browser.sh

venv: $(VENV)/installed ## what `python -m stack` needs, in .venv
venv-dev: $(VENV)/installed-dev

$(VENV)/installed: requirements.lock scripts/venv.sh
	@PYTHON=$(PYTHON) scripts/venv.sh $(VENV) requirements.lock
	@touch $@

$(VENV)/installed-dev: requirements-dev.lock $(VENV)/installed
	@PYTHON=$(PYTHON) scripts/venv.sh $(VENV) requirements-dev.lock
	@touch $@

clean: ## remove what is made here, but neither the stack nor its images
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build *.egg-info test-artifacts
