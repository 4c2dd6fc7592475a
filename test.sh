#!/usr/bin/env bash
# Passes all checks and tests. Needs Rust and a C compiler; what the tests use beside them (git, a registry
# server, runc, busybox, fuse-overlayfs, iproute2, openssl, procps, ssh and its server)
# is installed on Debian as root, and named otherwise.
set -euo pipefail
cd "$(dirname "$0")"
export CI=true
export PATH=$PATH:/usr/sbin:/sbin

missing=()
need() { # COMMAND PACKAGE
    command -v "$1" >/dev/null 2>&1 || missing+=("$2")
}
need cc gcc
need git git
need runc runc
command -v registry >/dev/null 2>&1 || need docker-registry docker-registry
need ip iproute2
need openssl openssl
need fuse-overlayfs fuse-overlayfs
need sshd openssh-server
need ssh openssh-client
need pgrep procps
need tar tar
[ -x /bin/busybox ] && ! ldd /bin/busybox >/dev/null 2>&1 || missing+=(busybox-static)
if [ "${#missing[@]}" -gt 0 ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    else
        echo "please install: ${missing[*]}" >&2
        exit 1
    fi
fi
if [ "$(id -u)" != 0 ]; then
    echo "please run as root: the system tests make mounts and containers" >&2
    exit 1
fi

exec cargo xtask ci
