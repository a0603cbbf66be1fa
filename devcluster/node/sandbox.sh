#!/bin/bash
# Runs one command in the node's file tree, with this machine's network: the image builder's home.
# Must be started in fresh mount and pid namespaces.
#
# From the environment: ROOTFS (the artefact, read only), ROOT (an empty directory to mount on),
# STORAGE (where images and caches persist) and BINDS (further directories, separated by colons,
# that the command sees, read only, at the paths they have here).
set -euo pipefail
TREE=$ROOT/merged
mount -t tmpfs -o mode=755 root "$ROOT"
mkdir "$ROOT"/{upper,work,merged}
mount -t overlay -o "lowerdir=$ROOTFS,upperdir=$ROOT/upper,workdir=$ROOT/work" root "$TREE"
mount -t proc proc "$TREE/proc"
mount --rbind /sys "$TREE/sys"
mount --rbind /dev "$TREE/dev"
mount -t tmpfs run "$TREE/run"
mount -t tmpfs -o mode=1777 tmp "$TREE/tmp"
for directory in /var/lib/containers /var/tmp; do
  mkdir -p "$STORAGE$directory" "$TREE$directory"
  mount --bind "$STORAGE$directory" "$TREE$directory"
done
cp /etc/resolv.conf "$TREE/etc/resolv.conf"
IFS=:
for path in $BINDS; do
  mkdir -p "$TREE$path"
  mount --bind "$path" "$TREE$path"
done
unset IFS
mkdir "$TREE/oldroot"
cd "$TREE"
pivot_root . oldroot
cd /
umount -l /oldroot
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root STORAGE_DRIVER=overlay BUILDAH_ISOLATION=chroot
exec "$@"
