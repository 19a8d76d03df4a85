#!/bin/sh
# Prepare a Debian 12 machine for the tests, the demo and the benchmarks. Run as root:
#
#     sh tests/setup.sh
#
# Installs missing Debian packages, unpacks the DHCPv6 server of the test network privately into
# .cache/kea, the daemons of a fail-over pair into .cache/pair, ndppd into .cache/ndppd, other
# people's firewalls into .cache/firewalls and a kernel for the guest into .cache/guest, and makes two
# virtual environments:
#
#     .venv         Debian's own pyroute2, structlog, tenacity and python-iptables: the oldest that
#                   are supported
#     .venv-newest  the newest ones
#
# Doing it twice does nothing the second time. No service is started or enabled.
set -eu

ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
CACHE=$ROOT/.cache
STAMP=$CACHE/setup.stamp
PYTHON=/usr/bin/python3
PACKAGES="nftables python3-nftables python3-pyroute2 python3-structlog python3-tenacity
python3-iptables python3-venv python3-pip iproute2 iptables conntrack dhcpcd-base mandoc iputils-ping procps
strace qemu-system-x86 kmod"
SERVER="kea-dhcp6-server kea-common"
# One after the other: they exclude each other.
FIREWALLS="iptables-persistent ufw shorewall6 firewalld dbus-daemon dbus-bin"
PAIR="keepalived conntrackd"
APT="apt-get -q -y -o APT::Sandbox::User=root -o Dpkg::Use-Pty=0"
export DEBIAN_FRONTEND=noninteractive PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

installed() { dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed; }

missing() {
    for package in $PACKAGES; do
        installed "$package" || printf '%s\n' "$package"
    done
}

# What must be the same afterwards: enabled services and the resolver. (rcS.d is no runlevel: procps
# and kmod, which an installed Debian has and a container has not, put a link there.)
machine() {
    find /etc/systemd/system /etc/rc[0-6].d -type l 2>/dev/null | sort
    cksum /etc/resolv.conf 2>/dev/null || :
}

updated=
update_lists() {
    [ -z "$updated" ] || return 1
    say "updating the package lists"
    $APT update >/dev/null && updated=yes
}

# Try a command; when it fails, update the package lists and try it once more.
with_lists() { "$@" || { update_lists && "$@"; }; }

install_packages() {
    wanted=$(missing)
    [ -n "$wanted" ] || return 0
    # shellcheck disable=SC2086  # both are lists of words
    set -- $wanted
    say "installing $*"
    before=$(machine)
    # shellcheck disable=SC2086
    with_lists $APT install --no-install-recommends "$@"
    [ "$before" = "$(machine)" ] || die "the installation changed services or /etc/resolv.conf"
}

# Packages, and those of what they need that this machine does not have.
closure() {
    plan=$($APT install -s --no-install-recommends "$@") || return 1
    { printf '%s\n' "$@"; printf '%s\n' "$plan" | sed -n 's/^Inst \([^ ]*\).*/\1/p'; } | sort -u
}

# download NAME PACKAGE ...: into .cache/NAME.new/debs.
download() {
    debs=$CACHE/$1.new/debs
    shift
    mkdir -p "$debs"
    wanted=$(closure "$@") || return 1
    # shellcheck disable=SC2086
    (cd "$debs" && $APT download $wanted)
}

# unpack NAME: what was downloaded becomes .cache/NAME, with /lib and /sbin in /usr if they are so
# here.
unpack() {
    new=$CACHE/$1.new
    for deb in "$new"/debs/*.deb; do
        dpkg -x "$deb" "$new"
    done
    for directory in bin sbin lib; do
        [ ! -L "/$directory" ] || [ ! -d "$new/$directory" ] || {
            mkdir -p "$new/usr/$directory"
            cp -a "$new/$directory/." "$new/usr/$directory/"
            rm -rf "${new:?}/$directory"
        }
    done
    rm -rf "$new/debs" "${CACHE:?}/$1"
    mv "$new" "$CACHE/$1"
}

# unpack_daemons NAME PROGRAM PACKAGE ...: unpacked, not installed: these packages would enable a
# service.
unpack_daemons() {
    name=$1 program=$2
    shift 2
    [ ! -x "$CACHE/$name/usr/sbin/$program" ] || return 0
    say "unpacking $* into .cache/$name"
    rm -rf "$CACHE/$name.new"
    with_lists download "$name" "$@" >/dev/null
    unpack "$name"
}

# The same, and they would load their rules into this machine's kernel.
unpack_firewalls() {
    [ ! -x "$CACHE/firewalls/usr/sbin/ufw" ] || return 0
    say "unpacking $FIREWALLS into .cache/firewalls"
    rm -rf "$CACHE/firewalls.new"
    for package in $FIREWALLS; do
        with_lists download firewalls "$package" >/dev/null
    done
    unpack firewalls
}

# new_venv DIRECTORY: an empty one that also sees Debian's packages (the nftables binding).
new_venv() {
    say "making $1"
    rm -rf "${ROOT:?}/$1"
    "$PYTHON" -m venv --system-site-packages "$ROOT/$1"
}

pip_install() {
    directory=$1
    shift
    "$ROOT/$directory/bin/python" -m pip install -q "$@"
}

# The floor is only a floor when these are Debian's.
check_floor() {
    (cd / && "$ROOT/.venv/bin/python" - <<'PY') || die ".venv does not use Debian's packages"
import iptc, nftables, pyroute2, structlog, tenacity
for module in (iptc, nftables, pyroute2, structlog, tenacity):
    if not module.__file__.startswith("/usr/lib/python3/dist-packages/"):
        raise SystemExit(f"{module.__name__} is {module.__file__}")
PY
}

make_venvs() {
    new_venv .venv
    pip_install .venv "pytest>=7.4" "pytest-xdist>=3.3" "hypothesis>=6.80" "ruff>=0.4" "mypy>=1.8"
    check_floor
    new_venv .venv-newest
    pip_install .venv-newest "pytest>=7.4" "pytest-xdist>=3.3" "hypothesis>=6.80"
    pip_install .venv-newest --upgrade --ignore-installed pyroute2 structlog tenacity \
        python-iptables
}

# What the virtual environments were made from; another value makes them again.
fingerprint() { { cksum <"$0"; "$PYTHON" -V; } 2>&1; }

venvs_current() {
    [ -x "$ROOT/.venv/bin/pytest" ] && [ -x "$ROOT/.venv-newest/bin/pytest" ] &&
        [ "$(cat "$STAMP" 2>/dev/null)" = "$(fingerprint)" ]
}

[ "$(id -u)" = 0 ] || die "run it as root"
mkdir -p "$CACHE"
install_packages
# shellcheck disable=SC2086
unpack_daemons kea kea-dhcp6 $SERVER
# shellcheck disable=SC2086
unpack_daemons pair conntrackd $PAIR
unpack_daemons ndppd ndppd ndppd
unpack_firewalls
sh "$ROOT/tests/guest/prepare.sh"
if ! venvs_current; then
    rm -f "$STAMP"
    make_venvs
    fingerprint >"$STAMP"
fi
say "ready"
