"""Experiments with real virtual machines: QEMU's guests, booted here, with pylb in them, a controller beside.

`bench.vm.image` builds what they boot from, `bench.vm.guest` starts and steers one, `bench.vm.ends` has the
controller and pylb. Without KVM QEMU emulates the processor (TCG): a guest's Python then runs at about 1/25
of the host's speed, and time that the host takes from a vCPU looks like use within the guest.
"""
