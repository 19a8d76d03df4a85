#!/bin/sh
# Fill .cache/guest: Debian's stock kernel, unpacked and not installed, and an initrd that mounts
# this machine's files. Called by tests/setup.sh, as root. Doing it twice does nothing the second
# time.
set -eu

ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
CACHE=$ROOT/.cache/guest
NEW=$CACHE.new
APT="apt-get -q -y -o APT::Sandbox::User=root -o Dpkg::Use-Pty=0"
NEEDED="virtio_pci virtio_console virtio_rng 9pnet_virtio 9p overlay"
# What the tests' networks can use; other drivers have no device here.
DRIVERS="net virtio char block"

say() { printf 'setup: %s\n' "$*"; }

[ ! -s "$CACHE/ready" ] || exit 0
[ "$(uname -m)" = x86_64 ] || { say "no guest: it is made for x86_64 only"; exit 0; }
PATH=$PATH:/usr/sbin:/sbin

# unpack PACKAGE DIRECTORY: its files, without installing it.
unpack() {
    debs=$NEW/debs-$1
    mkdir -p "$debs" "$2"
    (cd "$debs" && $APT download "$1" >/dev/null)
    dpkg -x "$debs"/*.deb "$2"
    rm -r "$debs"
}

kernel_package() {
    apt-cache depends linux-image-amd64 2>/dev/null |
        sed -n 's/^ *Depends: \(linux-image-[0-9][^ ]*-amd64\)$/\1/p' | head -n 1
}

# make_initrd TOP RELEASE: just enough to mount this machine's files.
make_initrd() {
    tree=$NEW/initrd
    for directory in bin dev proc sys mod low mem new ctl; do
        mkdir -p "$tree/$directory"
    done
    cp "$NEW"/busybox/bin/busybox "$tree/bin/" 2>/dev/null ||
        cp "$NEW"/busybox/usr/bin/busybox "$tree/bin/"
    number=10
    for module in $NEEDED; do
        modprobe -d "$1" -S "$2" --show-depends "$module"
    done | sed -n 's/^insmod \([^ ]*\).*/\1/p' | awk '!seen[$0]++' | while read -r file; do
        number=$((number + 1))
        name=$number-${file##*/}
        case $file in
        *.xz) xz -dc "$file" >"$tree/mod/${name%.xz}" ;;
        *) cp "$file" "$tree/mod/$name" ;;
        esac
    done
    cp "$ROOT/tests/guest/init.sh" "$tree/init"
    chmod 755 "$tree/init"
    (cd "$tree" && find . | "$tree/bin/busybox" cpio -o -H newc 2>/dev/null | gzip -1) \
        >"$NEW/initrd.gz"
    rm -r "$tree"
}

rm -rf "$NEW"
mkdir -p "$NEW"
package=$(kernel_package)
[ -n "$package" ] || { $APT update >/dev/null; package=$(kernel_package); }
[ -n "$package" ] || { say "no guest: apt knows no linux-image-amd64"; exit 0; }
say "unpacking $package into .cache/guest"
unpack "$package" "$NEW/kernel" || { $APT update >/dev/null; unpack "$package" "$NEW/kernel"; }
unpack busybox-static "$NEW/busybox"

release=$(cd "$NEW/kernel/boot" && echo vmlinuz-*)
release=${release#vmlinuz-}
top=kernel
[ -d "$NEW/$top/lib/modules" ] || top=kernel/usr
modules=$NEW/$top/lib/modules/$release
rm -rf "$modules/kernel/sound" "$NEW"/kernel/boot/System.map* "$NEW/kernel/usr/share"
for directory in "$modules"/kernel/drivers/*; do
    case " $DRIVERS " in
    *" ${directory##*/} "*) ;;
    *) rm -rf "$directory" ;;
    esac
done
rm -rf "$modules/kernel/drivers/net/ethernet" "$modules/kernel/drivers/net/wireless"
depmod -b "$NEW/$top" "$release" 2>/dev/null
make_initrd "$NEW/$top" "$release"
rm -r "$NEW/busybox"
printf '%s\n%s\n' "$release" "$top/lib/modules" >"$NEW/ready"
rm -rf "$CACHE"
mv "$NEW" "$CACHE"
