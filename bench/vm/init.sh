#!/bin/sh
# The guest's process 1: mounts, network, pylb's source from the second disk, and then QEMU's guest agent.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PYTHONPATH=/opt/pylb:/opt/site HOME=/root LANG=C.UTF-8
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mkdir -p /dev/shm
mount -t tmpfs shm /dev/shm
modprobe -a virtio_pci virtio_console virtio_net virtio_blk
ip link set lo up
for word in $(cat /proc/cmdline); do
    case $word in
        pylb.name=*) echo "${word#*=}" >/proc/sys/kernel/hostname ;;
        pylb.address=*) ip addr add "${word#*=}" dev eth0 && ip link set eth0 up ;;
    esac
done
sysctl -q net.core.somaxconn=4096
tar -xf /dev/vda -C /opt/pylb
until agent=$(grep -lx org.qemu.guest_agent.0 /sys/class/virtio-ports/*/name 2>/dev/null); do
    sleep 0.1 # ports come some time after the driver
done
agent=${agent%/name}
exec tini -- qemu-ga --method=virtio-serial --path="/dev/${agent##*/}" --statedir=/run
