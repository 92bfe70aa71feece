#!/usr/bin/env bash
# Installs what `make audit` attacks with: slowhttptest. Exit codes: 69 not available, 77 no root.
set -euo pipefail
# shellcheck disable=SC1091
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

command -v slowhttptest >/dev/null && exit
[ "${NO_INSTALL:-}" != 1 ] || fail 69 "slowhttptest is not installed, and NO_INSTALL=1"
is_debian_or_ubuntu || fail 69 "slowhttptest is not installed; get it from your system's packages"
require_root "install slowhttptest"
say "installing slowhttptest"
{ as_root apt-get -q update && apt_install slowhttptest; } >/dev/null ||
	fail 69 "slowhttptest could not be installed"
