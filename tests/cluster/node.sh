#!/bin/sh
# The home of one node: its network, its name and its folders. Runs in namespaces of its own and does nothing more: the
# node itself is started, killed and started again from outside.
#
#     unshare --net --mount --uts tests/cluster/node.sh TREE FOLDER NAME
#
# FOLDER holds `data`, `log`, `etc` and the file `hosts`.
set -eu
tree=$1 folder=$2 name=$3

mount --make-rprivate /
echo "$name" >/proc/sys/kernel/hostname
ip link set lo up
mount --bind "$folder/data" "$tree/var/lib/rabbitmq"
mount --bind "$folder/log" "$tree/var/log/rabbitmq"
mount --bind "$folder/etc" "$tree/etc/rabbitmq"
mount --bind "$folder/hosts" "$tree/etc/hosts"
mount --bind /dev "$tree/dev"
mount -t proc proc "$tree/proc"
mount -t tmpfs tmpfs "$tree/tmp"
chroot "$tree" chown -R rabbitmq:rabbitmq /var/lib/rabbitmq /var/log/rabbitmq /etc/rabbitmq
echo ready
exec sleep infinity
