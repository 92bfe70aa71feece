#!/usr/bin/env bash
# Installs what tests look at the page with, if there is none that starts: Chromium, from the
# system's packages on Debian, else Playwright's own. Exit codes: 69 not available, 77 no root.
set -euo pipefail
# shellcheck disable=SC1091
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

starts() { .venv/bin/python -m tests.e2e.browser; }

starts && exit
[ "${NO_INSTALL:-}" != 1 ] || fail 69 "there is no Chromium that starts, and NO_INSTALL=1"
say "installing Chromium"
if [ "$(os_release ID)" = debian ]; then
	require_root "install Chromium"
	{ as_root apt-get -q update && apt_install chromium fonts-dejavu-core; } >/dev/null ||
		fail 69 "Chromium could not be installed"
else
	# Ubuntu's package is a snap, which does not start in a container or without systemd.
	.venv/bin/playwright install --with-deps chromium >/dev/null ||
		fail 69 "Chromium could not be installed; install it, and run this again"
fi
starts || fail 69 "Chromium is installed, and does not start"
