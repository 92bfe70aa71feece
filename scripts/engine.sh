#!/usr/bin/env bash
# Ensures a usable Docker Engine with Compose and Buildx. Silent and quick when
# they are there; otherwise installs what is missing (Debian, Ubuntu) and starts
# the engine.
#
#   scripts/engine.sh
#
#   NO_INSTALL=1    never install anything
#   DEBIAN_MIRROR   Debian archive to use (default: the one of this machine's apt)
#
# Exit codes: 69 something needed is unavailable, 77 not permitted.
set -euo pipefail
# shellcheck disable=SC1091
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

ENGINE_AT_LEAST=25.0 # has start_interval of health checks
COMPOSE_AT_LEAST=2.20
LOG=/var/log/dockerd.log
PATH=$PATH:/usr/sbin:/sbin # where dockerd is; users often lack it
tmp=""

# --- looking ---------------------------------------------------------------

# A dead remote host must not hang `make up`. macOS has no `timeout`.
with_deadline() {
	if command -v timeout >/dev/null; then timeout --foreground 20 "$@"; else "$@"; fi
}

have() { command -v "$1" >/dev/null; }

# Keeps the client's complaint in $complaint.
engine_answers() {
	have docker && complaint=$(with_deadline docker version --format '{{.Server.Version}}' 2>&1 >/dev/null)
}

compose_version() { docker compose version --short 2>/dev/null | sed 's/^v//'; }

at_least() { # have wanted; compares major.minor
	local have_major have_minor rest
	IFS=.-+~ read -r have_major have_minor rest <<<"$1"
	case "$have_major$have_minor" in '' | *[!0-9]*) return 1 ;; esac
	[ "$have_major" -gt "${2%%.*}" ] ||
		{ [ "$have_major" -eq "${2%%.*}" ] && [ "${have_minor:-0}" -ge "${2#*.}" ]; }
}

compose_usable() { have docker && at_least "$(compose_version)" "$COMPOSE_AT_LEAST"; }
buildx_usable()  { have docker && docker buildx version >/dev/null 2>&1; }

all_usable() { engine_answers && compose_usable && buildx_usable; }

# Prints those of engine, client, compose, buildx that are not installed.
missing_parts() {
	engine_answers || have dockerd || echo engine
	have docker || echo client
	compose_usable || echo compose
	buildx_usable || echo buildx
}

describe() {
	local part text=""
	for part in "$@"; do
		case "$part" in
		engine) text="$text, Docker Engine" ;;
		client) text="$text, the docker client" ;;
		compose) text="$text, Docker Compose >= $COMPOSE_AT_LEAST" ;;
		buildx) text="$text, Docker Buildx" ;;
		esac
	done
	printf '%s' "${text#, }"
}

# An engine elsewhere is not ours to start, nor to replace by a local one.
stop_if_elsewhere() {
	local where=""
	if [ -n "${DOCKER_HOST:-}" ]; then
		where="DOCKER_HOST=$DOCKER_HOST"
	elif have docker; then
		where=$(docker context show 2>/dev/null || echo default)
		if [ "$where" = default ]; then where=""; else where="Docker context \"$where\""; fi
	fi
	have docker || complaint="no docker client is installed"
	[ -z "$where" ] ||
		fail 69 "the Docker Engine of $where does not answer${complaint:+ ($(head -n 1 <<<"$complaint"))};" \
			"start it there, or choose another by DOCKER_HOST or \`docker context use\`"
}

stop_if_not_permitted() {
	case "${complaint:-}" in
	*"permission denied"*)
		fail 77 "user $(id -un) may not use the Docker Engine's socket; add the user to the docker group" \
			"(sudo usermod -aG docker $(id -un), then log in again), or use sudo" ;;
	esac
}

# A running engine is the user's own: never replaced by another.
stop_if_too_old() {
	local version
	version=$(docker version --format '{{.Server.Version}}')
	at_least "$version" "$ENGINE_AT_LEAST" ||
		fail 69 "Docker Engine $version is too old, $ENGINE_AT_LEAST or later is needed; upgrade it (https://docs.docker.com/engine/install/)"
}

# --- installing ------------------------------------------------------------

candidate() { # package, apt options...; prints its version without epoch
	local package=$1
	shift
	LC_ALL=C apt-cache "$@" policy "$package" 2>/dev/null |
		sed -n 's/^ *Candidate: *//p' | sed 's/^(none)$//; s/^[0-9]*://'
}

# Prints the packages for the given parts, or fails if apt has no good enough ones.
# Docker's own packages come first, for machines that have Docker's archive.
choose_packages() {
	local part names package wanted version
	for part in "$@"; do
		wanted=0
		case "$part" in
		engine) names="docker-ce docker.io" wanted=$ENGINE_AT_LEAST ;;
		client) names="docker-ce-cli docker-cli docker.io" ;;
		compose) names="docker-compose-plugin docker-compose-v2 docker-compose" wanted=$COMPOSE_AT_LEAST ;;
		buildx) names="docker-buildx-plugin docker-buildx" ;;
		esac
		for package in $names; do
			version=$(candidate "$package" "${apt_options[@]}")
			if [ -n "$version" ] && dpkg --compare-versions "$version" ge "$wanted"; then
				echo "$package"
				continue 2
			fi
		done
		return 1
	done
	case " $* " in
	*" engine "*)
		echo iptables
		echo ca-certificates
		# With AppArmor in the kernel, no container starts without its parser.
		if grep -qs Y /sys/module/apparmor/parameters/enabled; then echo apparmor; fi ;;
	esac
}

# Debian 12 has neither Compose 2 nor a recent engine: take exactly these packages
# from Debian 13 and all they depend on from this release. The machine's own
# sources stay as they are, else later upgrades would pull more from Debian 13.
use_trixie_for_docker() {
	local suite keyring
	find_debian_mirrors
	[ -n "$mirror" ] ||
		fail 69 "apt on this machine names no Debian archive to install Docker from; set DEBIAN_MIRROR to the URL of one"
	keyring=$(debian_keyring)
	mkdir -p "$tmp/parts" "$tmp/preferences" "$tmp/lists"
	touch "$tmp/sources.list"
	[ ! -e /etc/apt/sources.list ] || cp /etc/apt/sources.list "$tmp/"
	cp -rL /etc/apt/sources.list.d/. "$tmp/parts/" 2>/dev/null || true
	cp -rL /etc/apt/preferences.d/. "$tmp/preferences/" 2>/dev/null || true
	for suite in "$mirror trixie" ${security:+"$security trixie-security"}; do
		echo "deb ${keyring:+[signed-by=$keyring] }$suite main"
	done >"$tmp/parts/stack-trixie.list"
	cat >"$tmp/preferences/stack-trixie" <<-'PINS'
		Package: *
		Pin: release n=trixie*
		Pin-Priority: 100

		Package: docker.io docker-cli docker-buildx docker-compose
		Pin: release n=trixie*
		Pin-Priority: 990
	PINS
	apt_options=(-o "Dir::Etc::SourceList=$tmp/sources.list" -o "Dir::Etc::SourceParts=$tmp/parts"
		-o "Dir::Etc::PreferencesParts=$tmp/preferences" -o "Dir::State::Lists=$tmp/lists")
}

update_lists() {
	# One broken source of another vendor fails this, but need not concern Docker.
	as_root apt-get "${apt_options[@]}" -q update >"$tmp/log" 2>&1 </dev/null || true
}

# Prints name, version and origin of all that apt would install.
print_plan() {
	say "$(describe "${parts[@]}") missing; installing these packages:"
	sed -n 's/^Inst \([^ ]*\) \(\[[^]]*\] \)\{0,1\}(\([^ ]*\) \(.*\) \[[^]]*\]).*/stack:   \1 \3 from \4/p' <<<"$1"
}

install_parts() {
	local parts=("$@") packages plan started=$SECONDS
	[ "${NO_INSTALL:-}" != 1 ] ||
		fail 69 "missing: $(describe "${parts[@]}"), and NO_INSTALL=1 forbids to install it; install it, or unset NO_INSTALL"
	is_debian_or_ubuntu ||
		fail 69 "missing: $(describe "${parts[@]}"); install Docker Engine (https://docs.docker.com/engine/install/)" \
			"or install and start Docker Desktop (https://docs.docker.com/desktop/), then try again"
	require_root "install $(describe "${parts[@]}")"

	tmp=$(mktemp -d)
	chmod 755 "$tmp" # apt downloads as another user
	apt_options=(-q)
	say "missing: $(describe "${parts[@]}"); reading the package lists of this machine"
	update_lists
	packages=$(choose_packages "${parts[@]}") || packages=""
	if [ -z "$packages" ] && [ "$(os_release ID)" = debian ] &&
		[ "$(os_release VERSION_ID)" -lt 13 ] 2>/dev/null; then
		say "this Debian release has none that are recent enough; reading those of Debian 13 (trixie)"
		use_trixie_for_docker
		update_lists
		packages=$(choose_packages "${parts[@]}") || packages=""
	fi
	if [ -z "$packages" ]; then
		tail -n 5 "$tmp/log" >&2
		fail 69 "apt offers no good enough packages for: $(describe "${parts[@]}"); check the network and the apt sources," \
			"or install it from https://docs.docker.com/engine/install/"
	fi

	packages=$(tr '\n' ' ' <<<"$packages")
	# shellcheck disable=SC2086  # a list of package names
	plan=$(apt_install -s "${apt_options[@]}" $packages 2>&1) || {
		tail -n 15 <<<"$plan" >&2
		fail 69 "apt cannot install $packages(see above); resolve that, then try again"
	}
	! grep '^Remv ' <<<"$plan" >&2 ||
		fail 69 "installing ${packages}would remove the packages above; nothing was changed, install Docker by hand"
	print_plan "$plan"
	# shellcheck disable=SC2086
	apt_install "${apt_options[@]}" $packages >"$tmp/log" 2>&1 || {
		tail -n 15 "$tmp/log" >&2
		fail 69 "apt failed to install $packages(see above); resolve that, then try again"
	}
	say "installed in $((SECONDS - started)) s"
	hash -r
}

# --- starting --------------------------------------------------------------

# dockerd refuses to start, or waits in vain, if the pid in such a file is alive,
# even when another program has got that pid by now.
remove_stale_pid_file() { # file program
	local pid
	as_root test -e "$1" || return 0
	pid=$(as_root cat "$1")
	[ "$(cat "/proc/$pid/comm" 2>/dev/null)" != "$2" ] || return 0
	say "removing the stale $1: process ${pid:-?} is not $2"
	as_root rm -f "$1"
}

# Debian's SysV script fails where the hard limit of open files is low, so
# dockerd is started itself. It gets no descriptor of ours, else `make` would wait for it.
start_dockerd_itself() {
	say "starting dockerd in the background, its log is $LOG"
	# shellcheck disable=SC2016  # for the inner shell
	dockerd_pid=$(as_root bash -c '
		for fd in /proc/$BASHPID/fd/*; do
			fd=${fd##*/}
			[ "$fd" -le 2 ] || eval "exec $fd>&-"
		done
		cd /
		nohup setsid "$1" </dev/null >>"$2" 2>&1 &
		echo $!' bash "$(command -v dockerd)" "$LOG")
}

show_log() {
	if [ -d /run/systemd/system ]; then
		as_root journalctl --no-pager -n 15 -u docker >&2 || true
	else
		as_root tail -n 15 "$LOG" >&2 || true
	fi
}

start_engine() {
	local deadline=$((SECONDS + 60)) dockerd_pid=""
	require_root "start the Docker Engine"
	if [ -d /run/systemd/system ]; then
		say "starting the Docker Engine (systemctl start docker)"
		as_root systemctl start docker || true # the reason is in the log, shown below
	else
		remove_stale_pid_file /run/docker.pid dockerd
		remove_stale_pid_file /run/docker/containerd/containerd.pid containerd
		if as_root test -e /run/docker.pid; then
			say "dockerd runs already but does not answer yet; waiting for it"
		else
			start_dockerd_itself
		fi
	fi
	until engine_answers; do
		stop_if_not_permitted
		if [ "$SECONDS" -ge "$deadline" ] || { [ -n "$dockerd_pid" ] && [ ! -e "/proc/$dockerd_pid" ]; }; then
			show_log
			fail 69 "the Docker Engine did not start, see its log above; remove the cause, then try again"
		fi
		sleep 0.5
	done
}

# --- main ------------------------------------------------------------------

prepare() {
	local parts
	# shellcheck disable=SC2207  # words without blanks
	parts=($(missing_parts))
	[ ${#parts[@]} = 0 ] || install_parts "${parts[@]}"
	engine_answers || { stop_if_not_permitted; start_engine; }

	# shellcheck disable=SC2207
	parts=($(missing_parts))
	[ ${#parts[@]} = 0 ] ||
		fail 69 "still missing after the installation: $(describe "${parts[@]}");" \
			"an old one in ~/.docker/cli-plugins or /usr/local may hide the new one"
}

complaint=""
if all_usable; then stop_if_too_old; exit 0; fi
engine_answers || { stop_if_elsewhere; stop_if_not_permitted; }

trap '[ -z "$tmp" ] || as_root rm -rf "$tmp"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
if have flock && [ -r /run ]; then
	exec 9</run # two at a time must not install, nor start two daemons
	flock -w 600 9 || fail 69 "another run has been preparing the Docker Engine for 10 minutes; end it, then try again"
fi
prepare
stop_if_too_old
