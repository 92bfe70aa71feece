# shellcheck shell=bash
# What the scripts beside this file share; they source it.

say()  { printf 'stack: %s\n' "$*"; }
fail() { local code=$1; shift; printf 'stack: %s\n' "$*" >&2; exit "$code"; }

os_release() { sed -n "s/^$1=//p" /etc/os-release 2>/dev/null | tr -d "\"'"; }

is_debian_or_ubuntu() {
	case " $(os_release ID) $(os_release ID_LIKE) " in
	*" debian "* | *" ubuntu "*) ;;
	*) return 1 ;;
	esac
}

# Descriptor 9 holds the callers' locks, which no daemon started below may keep.
as_root() {
	if [ "$(id -u)" = 0 ]; then "$@" 9<&-; else sudo "$@" 9<&-; fi
}

require_root() { # for what
	[ "$(id -u)" = 0 ] || { command -v sudo >/dev/null && sudo true; } ||
		fail 77 "user $(id -un) needs root to $1; run this as root, or get leave to use sudo"
}

without_password() { printf '%s\n' "$1" | sed 's#//[^/@]*@#//#'; }

apt_install() {
	as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 \
		install -y -q --no-install-recommends "$@" </dev/null
}

# Prints the first existing Debian keyring; newer releases name it .pgp.
debian_keyring() {
	local file
	for file in /usr/share/keyrings/debian-archive-keyring.{pgp,gpg}; do
		if [ -r "$file" ]; then
			printf '%s' "$file"
			return
		fi
	done
}

# Sets mirror and security to the archives that apt uses here, or to nothing.
# Asks for what an update would fetch, which needs no downloaded lists.
# Other vendors' archives use Debian's release names too, but have no "-updates".
find_debian_mirrors() {
	mirror=${DEBIAN_MIRROR:-}
	security=${DEBIAN_SECURITY_MIRROR:-}
	[ -z "$mirror" ] && [ "$(os_release ID)" = debian ] || return 0
	local suites # lines of: suite archive
	suites=$(apt-get update --print-uris 2>/dev/null |
		sed -n "s#^'\(.*\)/dists/\(.*\)/main/binary-[^/]*/Packages.*#\2 \1#p") || true
	mirror=$(awk -v name="$(os_release VERSION_CODENAME)" '
		$1 ~ /-updates$/ { if (!best) best = $2 }
		$1 == name || $1 ~ /^(oldstable|stable|testing|unstable|sid)$/ { if (!other) other = $2 }
		END { print best ? best : other }' <<<"$suites")
	security=${security:-$(awk '$1 ~ /-security$/ { print $2; exit }' <<<"$suites")}
}
