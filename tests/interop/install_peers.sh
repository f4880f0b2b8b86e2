#!/bin/sh
# Brings the real mail and DNS servers that the tests marked `peers` talk to into the private folder .peers/.
#
#   usage: install_peers.sh [plan]        plan: only say what would be fetched
#
# The Debian packages are downloaded and unpacked there, never installed: no service is started or enabled, no system
# file, user or group changes, and packages that exclude each other (Exim, Postfix) live side by side. A server that the
# machine already has is used from where it is. The accounts that the servers look up by name (Debian-exim, postfix,
# postdrop) exist in two private files only, which libnss-wrapper shows to these processes.
#
# Root is needed because the tests run the servers as root; without it, or not on Debian, this does nothing and the tests
# skip with the reason (with OUTRIDER_REQUIRE_PEERS=1 that is an error).
set -eu
umask 022
export LC_ALL=C DEBIAN_FRONTEND=noninteractive

cd "$(dirname "$0")/../.."
target=.peers
plan=${1:-}

give_up() {
    echo "peers: $1" >&2
    [ "${OUTRIDER_REQUIRE_PEERS:-0}" = 1 ] && exit 1
    exit 0
}

command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || give_up "not a Debian system; tests marked peers will skip"
[ "$(id -u)" = 0 ] || give_up "not root; tests marked peers will skip"

# A package is wanted only where its program is not on the machine already.
wanted=
want() { # package, program
    [ -x "$2" ] || wanted="$wanted $1"
}
want exim4-daemon-heavy /usr/sbin/exim4
want postfix /usr/lib/postfix/sbin/master
want nsd /usr/sbin/nsd
want unbound /usr/sbin/unbound
want openssl /usr/bin/openssl
want dovecot-core /usr/sbin/dovecot
want haproxy /usr/sbin/haproxy
want swaks /usr/bin/swaks
want mariadb-server-core /usr/sbin/mariadbd
postgresql=$(ls -d /usr/lib/postgresql/*/bin/postgres 2>/dev/null | tail -n 1)
[ -n "$postgresql" ] || want "$(apt-cache depends postgresql 2>/dev/null | sed -n 's/.*Depends: \(postgresql-[0-9]*\)$/\1/p' | head -n 1)" /nonexistent
want libnss-wrapper "$(echo /usr/lib/*/libnss_wrapper.so)"

# The stamp holds what was wanted, where, and by which version of this script.
# shellcheck source=/dev/null
stamp="$(. /etc/os-release; echo "${ID:-}${VERSION_ID:-}") $(dpkg --print-architecture) $(cksum <"$0")$wanted"
if [ -d "$target/root" ] && [ "$(cat "$target/stamp" 2>/dev/null)" = "$stamp" ]; then
    echo "peers: $target/ is complete"
    exit 0
fi
echo "peers: Debian packages to unpack into $target/ (nothing is installed):${wanted:- none}"
[ "$plan" = plan ] && exit 0

new=$target/new.$$
trap 'rm -rf "$new"' EXIT
trap 'exit 130' INT TERM
mkdir -p "$new/debs" "$new/root"

# Every package, and every shared library of its dependencies that the machine lacks.
closure() {
    for package in $wanted; do
        apt-get -qq -s --no-install-recommends install "$package" >"$new/simulated" || return 1
        echo "$package"
        sed -n 's/^Inst \([^ ]*\).*/\1/p' "$new/simulated" | grep '^lib' || true
    done | sort -u | grep -vE '^(libc6|libc-bin|libc-l10n)$' || true
}
fetch() {
    closure >"$new/names" && [ -s "$new/names" ] || return 1
    for package in $wanted; do grep -qx "$package" "$new/names" || return 1; done
    # shellcheck disable=SC2046
    (cd "$new/debs" && apt-get -qq -o APT::Sandbox::User=root download $(cat ../names))
}
if [ -n "$wanted" ]; then
    if ! fetch 2>"$new/errors"; then
        echo "peers: refreshing the package lists"
        apt-get -qq update || give_up "apt-get update failed"
        rm -f "$new"/debs/*
        fetch || give_up "apt-get could not fetch the packages"
    fi
    for deb in "$new"/debs/*.deb; do
        dpkg-deb -x "$deb" "$new/root"
    done
    # Set-user-ID programs would drop the library path that they are found through, and nothing here needs them.
    find "$new/root" -type f -perm /6000 -exec chmod u-s,g-s {} +
fi

# Accounts for the servers' eyes only: the machine's own, plus the missing ones under numbers that nobody has.
mkdir -p "$new/root/accounts"
getent passwd >"$new/root/accounts/passwd"
getent group >"$new/root/accounts/group"
account() { # name, number
    grep -q "^$1:" "$new/root/accounts/group" || echo "$1:x:$2:" >>"$new/root/accounts/group"
    grep -q "^$1:" "$new/root/accounts/passwd" ||
        echo "$1:x:$2:$2:$1:/nonexistent:/usr/sbin/nologin" >>"$new/root/accounts/passwd"
}
account Debian-exim 59101
account postfix 59102
account postdrop 59103

rm -rf "$new/debs" "$target/root" "$target/stamp"
mv "$new/root" "$target/root"
echo "$stamp" >"$target/stamp"
echo "peers: $target/ is ready"
