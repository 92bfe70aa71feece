#!/usr/bin/env bash
# Makes a base image from Debian packages, for networks without an image
# registry. It stands in for the official image: same paths, same contract.
#
#   scripts/debian-base.sh python|nginx|registry
#
#   DEBIAN_MIRROR           Debian archive to use (default: the one of this machine's apt)
#   DEBIAN_SECURITY_MIRROR  Debian security archive (default: likewise)
#   NO_INSTALL=1            never install mmdebstrap
#
# Exit codes: 64 wrong usage, 69 something needed is unavailable, 77 not permitted.
set -euo pipefail
# shellcheck disable=SC1091
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

NGINX_AT_LEAST=1.27.4
tmp="" new="" # removed at exit, if set

choose_image() {
	case "${1:-}" in
	python)
		image=stack-base/python:3.13
		variable=PYTHON_IMAGE
		official=python:3.13-slim-trixie
		suite=trixie
		packages=python3.13,python3.13-venv,ca-certificates,tzdata
		;;
	nginx)
		image=stack-base/nginx:1.30
		variable=NGINX_IMAGE
		official=nginx:1.30
		suite=testing
		packages=nginx,curl,ca-certificates
		;;
	registry)
		image=stack-base/registry:2
		variable=REGISTRY_IMAGE
		official=registry:2
		suite=trixie
		packages=docker-registry,ca-certificates
		;;
	*) fail 64 "usage: scripts/debian-base.sh python|nginx|registry" ;;
	esac
}

require_engine() {
	docker version >/dev/null 2>&1 ||
		fail 69 "the Docker Engine does not answer, so $image cannot be made; run scripts/engine.sh first"
}

require_debian_host() {
	is_debian_or_ubuntu ||
		fail 69 "no registry answers and bases can be made from packages only on Debian or Ubuntu;" \
			"connect to a registry, or load the images by \`docker load\`"
}

require_mmdebstrap() {
	local missing=""
	command -v mmdebstrap >/dev/null || missing=mmdebstrap
	[ -n "$(debian_keyring)" ] || missing="${missing:+$missing }debian-archive-keyring"
	[ -n "$missing" ] || return 0
	[ "${NO_INSTALL:-}" != 1 ] ||
		fail 69 "missing: $missing, and NO_INSTALL=1 forbids to install it; install it, or unset NO_INSTALL"
	say "installing from this machine's apt sources: $missing"
	# shellcheck disable=SC2086  # a list of package names
	{ as_root apt-get -q update && apt_install $missing; } >"$tmp/log" 2>&1 || {
		tail -n 15 "$tmp/log" >&2
		fail 69 "could not install $missing (see above); check the network and the apt sources, then try again"
	}
}

require_mirror() {
	find_debian_mirrors
	[ -n "$mirror" ] ||
		fail 69 "apt on this machine names no Debian archive, so $image cannot be made;" \
			"set DEBIAN_MIRROR to the URL of one (on Ubuntu always needed), and DEBIAN_SECURITY_MIRROR likewise"
	[ -n "$security" ] || [ "$suite" = testing ] ||
		say "no Debian security archive is known, $image goes without it; DEBIAN_SECURITY_MIRROR names one"
}

apt_sources() {
	local signed
	signed="signed-by=$(debian_keyring)"
	case "$suite" in
	testing)
		# A mirror may lag behind the short validity of testing; signatures stay checked.
		echo "deb [$signed check-valid-until=no] $mirror testing main" ;;
	*)
		echo "deb [$signed] $mirror $suite main"
		echo "deb [$signed] $mirror $suite-updates main"
		[ -z "$security" ] || echo "deb [$signed] $security $suite-security main" ;;
	esac
}

# mmdebstrap does not read this machine's apt configuration; the environment
# carries a proxy without writing it into the image.
proxy_of() {
	local proxy
	proxy=$(apt-config shell p "Acquire::$1::Proxy" | sed "s/^p='\(.*\)'$/\1/")
	case "$proxy" in "" | DIRECT) ;; *) echo "$1_proxy=$proxy" ;; esac
}

# Runs on the host when all packages are installed, with the new root as $1.
write_hook() {
	cat >"$tmp/hook" <<-'HOOK'
		set -eu
		root=$1
	HOOK
	case "$official" in
	python:*) cat >>"$tmp/hook" <<-'HOOK' ;;
		ln -s /usr/bin/python3.13 "$root/usr/local/bin/python3.13"
		ln -s python3.13 "$root/usr/local/bin/python3"
		ln -s python3 "$root/usr/local/bin/python"
	HOOK
	nginx:*) cat >>"$tmp/hook" <<-'HOOK' ;;
		# As in the official image: its user, and logs that reach the container's output.
		echo 'nginx:x:101:' >>"$root/etc/group"
		echo 'nginx:x:101:101:nginx:/nonexistent:/bin/false' >>"$root/etc/passwd"
		ln -sf /dev/stdout "$root/var/log/nginx/access.log"
		ln -sf /dev/stderr "$root/var/log/nginx/error.log"
		dpkg-query --admindir="$root/var/lib/dpkg" -W -f '${Version}' nginx >"${0%/*}/version"
	HOOK
	registry:*) cat >>"$tmp/hook" <<-'HOOK' ;;
		# As in the official image: Debian's own settings ask for a password file.
		ln -s docker-registry "$root/usr/bin/registry"
		mkdir -p "$root/var/lib/registry"
		cat >"$root/etc/docker/registry/config.yml" <<-'CONFIG'
			version: 0.1
			log: {level: warn}
			storage: {filesystem: {rootdirectory: /var/lib/registry}, delete: {enabled: true}}
			http: {addr: ":5000"}
		CONFIG
	HOOK
	esac
	# What only the build needed, or names this machine, stays out of the image.
	cat >>"$tmp/hook" <<-'HOOK'
		rm -rf "$root"/etc/apt/sources.list* "$root"/etc/apt/apt.conf.d/99mmdebstrap \
			"$root"/etc/hostname "$root"/etc/resolv.conf \
			"$root"/var/cache/debconf/* "$root"/var/log/*.log "$root"/var/log/apt \
			"$root"/var/lib/dpkg/*-old "$root"/usr/share/lintian
	HOOK
}

make_tarball() {
	write_hook
	apt_sources >"$tmp/sources"
	# shellcheck disable=SC2046  # no words when there is no proxy
	as_root env $(proxy_of http) $(proxy_of https) mmdebstrap --mode=root --variant=essential \
		--format=tar --include="$packages" --skip=output/dev \
		--aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' \
		--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
		--dpkgopt='path-exclude=/usr/share/man/*' \
		--dpkgopt='path-exclude=/usr/share/info/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
		--customize-hook="sh '$tmp/hook' \"\$1\"" \
		"$suite" - - <"$tmp/sources" >"$tmp/root.tar" 2>"$tmp/log" || {
		tail -n 15 "$tmp/log" >&2
		fail 69 "could not make $image from $(without_password "$mirror") ($suite), see above; check that the archive is reachable, then try again"
	}
}

check_nginx_version() {
	local version
	version=$(cat "$tmp/version")
	dpkg --compare-versions "$version" ge "$NGINX_AT_LEAST" ||
		fail 69 "$(without_password "$mirror") ($suite) has nginx $version, but $NGINX_AT_LEAST or newer is needed; set DEBIAN_MIRROR to a current archive"
}

import_image() {
	local changes=(
		--change "ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
		--change "LABEL org.opencontainers.image.title=\"$image\""
		--change "LABEL org.opencontainers.image.description=\"Made from Debian packages ($suite) because no image registry answered; takes the place of $official\""
		--change "LABEL org.opencontainers.image.base.name=\"$official\""
	)
	case "$official" in
	python:*) changes+=(--change "ENV LANG=C.UTF-8" --change 'CMD ["python3"]') ;;
	nginx:*) changes+=(--change "STOPSIGNAL SIGQUIT" --change 'CMD ["nginx", "-g", "daemon off;"]') ;;
	registry:*) changes+=(--change 'ENTRYPOINT ["registry"]' --change "EXPOSE 5000"
		--change 'CMD ["serve", "/etc/docker/registry/config.yml"]') ;;
	esac
	docker import "${changes[@]}" "$tmp/root.tar" "$image" >"$tmp/log" 2>&1 || {
		cat "$tmp/log" >&2
		fail 69 "the Docker Engine did not take $image, see above; check its disk space, then try again"
	}
}

make_image() {
	local started=$SECONDS
	require_debian_host
	require_root "make $image"
	tmp=$(mktemp -d)
	require_mmdebstrap
	require_mirror
	say "no registry: making $image from the Debian packages of $(without_password "$mirror"), suite $suite (a minute or two)"
	make_tarball
	[ ! -e "$tmp/version" ] || check_nginx_version
	import_image
	say "made $image in $((SECONDS - started)) s, $(($(docker image inspect --format '{{.Size}}' "$image") / 1000000)) MB"
}

# Docker Compose reads .env of the project's directory.
record_choice() {
	local file
	file=$(readlink -f .env 2>/dev/null || echo "$PWD/.env")
	if command -v flock >/dev/null; then
		exec 9<. # python and nginx may be made at the same time
		flock 9
	fi
	if [ -e "$file" ] && grep -Eq "^[[:space:]]*(export[[:space:]]+)?$variable=" "$file"; then
		grep -Fxq "$variable=$image" "$file" ||
			say ".env already sets $variable to something else; left as it is (for this image: $variable=$image)"
		return
	fi
	new=$(mktemp "${file%/*}/.env.XXXXXX")
	chmod 644 "$new"
	if [ -e "$file" ]; then
		cp -p "$file" "$new"
		[ -z "$(tail -c 1 "$new")" ] || echo >>"$new"
	fi
	echo "$variable=$image" >>"$new"
	mv -f "$new" "$file"
	say "$variable=$image recorded in .env; delete the line to use the official image again"
}

trap 'rm -rf "$tmp" "$new"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
choose_image "$@"
require_engine
if docker image inspect "$image" >/dev/null 2>&1; then
	say "$image is already there, not made again"
else
	make_image
fi
record_choice
