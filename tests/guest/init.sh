#!/bin/busybox sh
# The guest's first process: this machine's files, with a layer over them that takes what is
# written and is forgotten at the end. Then stage2.sh, from the directory that boot.py shares.
fail() { echo "guest: $*"; busybox poweroff -f; }
PATH=/bin
busybox mount -t devtmpfs dev /dev
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
for module in /mod/*; do busybox insmod "$module" || fail "insmod $module"; done
nine=trans=virtio,version=9p2000.L,msize=512000
busybox mount -t 9p -o "$nine,ro,cache=loose" root /low || fail "no root"
busybox mount -t 9p -o "$nine,cache=none" ctl /ctl || fail "no ctl"
busybox mount -t tmpfs -o size=75% mem /mem
busybox mkdir /mem/up /mem/wk
busybox mount -t overlay -o lowerdir=/low,upperdir=/mem/up,workdir=/mem/wk over /new ||
	fail "no overlay"
busybox mkdir -p /new/.guest
busybox mount -o move /ctl /new/.guest
for directory in dev proc sys; do busybox mount -o move /$directory /new/$directory; done
exec busybox switch_root /new /bin/sh /.guest/stage2.sh
