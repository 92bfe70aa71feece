#!/usr/bin/env bash
# Lets gixy read the proxy's configuration as it runs with HTTPS, a password and limits.
set -euo pipefail

directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cp -R proxy/conf/. "$directory"
mkdir "$directory/targets" "$directory/settings"
echo 'server web:8000 resolve;' >"$directory/targets/web:8000"
# As `add_settings` in proxy/bin/proxy writes them.
cat >"$directory/settings/http.conf" <<-'END'
	map $host $host_is_allowed {
	    hostnames;
	    localhost 1;
	    default 0;
	}
	limit_req_zone $binary_remote_addr zone=requests:5m rate=5r/s;
	limit_conn_zone $binary_remote_addr zone=connections:5m;
	map '' $upstream_authorization { default ''; }
END
cat >"$directory/settings/server.conf" <<-'END'
	include optional/tls.conf;
	include optional/password.conf;
	limit_req zone=requests burst=10 nodelay;
	limit_conn connections 3;
END
# hsts_header: for "localhost" it would bind every other port of it to HTTPS, too.
.venv/bin/gixy --skips hsts_header "$directory/nginx.conf"
