#!/usr/bin/env bash
# Puts locked packages into a virtual environment: scripts/venv.sh DIRECTORY LOCKFILE
#
#   PYTHON         the Python to make it with (default: python3)
#   NO_INSTALL=1   never install a system package
set -euo pipefail
# shellcheck disable=SC1091
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

venv=$1 lockfile=$2
python=${PYTHON:-python3}

require_python() {
	if command -v "$python" >/dev/null; then
		"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
			fail 69 "Python 3.11 or later is needed, $python is $("$python" -V 2>&1); name another: make up PYTHON=python3.12"
		"$python" -c 'import ensurepip, venv' 2>/dev/null && return
	fi
	{ [ "$python" = python3 ] && is_debian_or_ubuntu; } ||
		fail 69 "$python with its venv module is missing; get Python 3.11 or later from your system or from python.org"
	[ "${NO_INSTALL:-}" != 1 ] ||
		fail 69 "missing: python3-venv, and NO_INSTALL=1 forbids to install it; install it, or unset NO_INSTALL"
	say "installing from this machine's apt sources: python3 python3-venv"
	require_root "install python3-venv"
	{ as_root apt-get -q update && apt_install python3 python3-venv; } >/dev/null ||
		fail 69 "could not install python3-venv; check the network and the apt sources, then try again"
}

# A virtual environment whose Python has been removed or upgraded is made anew.
if ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
	require_python
	say "making $venv with $("$python" -V)"
	rm -rf "$venv"
	"$python" -m venv "$venv"
fi
say "installing the packages of $lockfile into $venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$lockfile"
