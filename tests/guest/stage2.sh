# Within this machine's files: what a command expects of a system, then the command, then the end.
# shellcheck shell=sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
for directory in /run /dev/shm; do
	mkdir -p $directory
	mount -t tmpfs -o mode=1777 none $directory
done
mkdir -p /run/lock /dev/pts
mount -t devpts -o mode=620,ptmxmode=666 none /dev/pts
ln -sfn /proc/self/fd /dev/fd
for pair in 0:stdin 1:stdout 2:stderr; do
	ln -sfn /proc/self/fd/"${pair%:*}" /dev/"${pair#*:}"
done
mkdir -p /lib/modules
mount --bind "$(cat /.guest/modules)" /lib/modules
ip link set lo up
for port in /sys/class/virtio-ports/*; do
	read -r name <"$port/name"
	eval "port_$name=/dev/${port##*/}"
done
# shellcheck disable=SC2154  # set by eval
sh /.guest/command.sh </dev/null >"$port_out" 2>"$port_err"
echo $? >/.guest/status
sync
echo o >/proc/sysrq-trigger
sleep 60
