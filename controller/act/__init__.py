"""What a host does for a balancer under pressure: it gives its machine preference, and vCPUs.

Off unless ``--act FILE`` is given. `policy` decides and is pure; `weights` (cgroup files), `libvirtlever`
and `agent` (vCPUs, through QEMU's guest agent) are the levers; `kept` remembers on disk what was found, so
that it is restored also after ``kill -9``; `actor` drives them in a thread of its own, since libvirt and
guests may stand still; `settings` reads the file. The server passes in what balancers report; nothing here
knows sockets of balancers, leases or sources.
"""
