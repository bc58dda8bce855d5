"""The controller as a server: listens, accepts, and keeps the time of what its peers and the leases need.

What one peer may cost is bounded in `controller.peer` and `controller.places` (strangers, handshakes of TLS
included, have places of their own), what all together cost in `controller.sharing`.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import time

from controller.access import Access, server_tls
from controller.act.actor import Actor
from controller.address import Address
from controller.descriptors import places_at_hand, raise_descriptor_limit
from controller.leases import LeaseTable
from controller.listening import Listening
from controller.peer import HELLO_SECONDS, READ, Peer
from controller.places import Places
from controller.protocol import Status
from controller.sharing import Sharing
from controller.sources import Source

__all__ = ["Access", "ControllerServer", "raise_descriptor_limit", "server_tls"]

TICK = 0.25
_PAUSE = 1.0  # seconds without accepting when descriptors have run out all the same
_OUT_OF = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

log = logging.getLogger("controller")


class ControllerServer:
    """Serves one source to many balancers; ``actor`` acts for those under pressure, where that is wanted."""

    def __init__(self, source: Source, access: Access | None = None, actor: Actor | None = None) -> None:
        self.source = source
        self.access = access or Access()
        self.places: Places[Peer] = Places()
        self.addresses: list[Address] = []
        """Where it listens, with the ports that were taken."""
        self._actor = actor
        self._sharing = Sharing(source, lambda: self.places.all(), actor)
        self._listening = Listening()
        self._ticking: asyncio.Task[None] | None = None
        self._keys = 0
        self._buffer = bytearray(READ)

    @property
    def address(self) -> Address | None:
        """The first one of `addresses`."""
        return self.addresses[0] if self.addresses else None

    @property
    def table(self) -> LeaseTable:
        """Who holds which cores."""
        return self._sharing.table

    def status(self) -> Status:
        """All there is to see."""
        return self._sharing.status()

    async def start(self, *addresses: Address) -> None:
        """Listen on all of them (a TCP port of 0 takes a free one; see `addresses`).

        Raises:
            OSError: one can't be listened on, and then none is; its ``filename`` is the address.
        """
        mode = 0o666 if self.access.uids else 0o600  # with other users the peer's credentials decide
        for address in addresses:
            try:
                self.addresses.append(await self._listening.add(address, mode))
            except OSError as error:
                self._stop_listening()
                raise OSError(error.errno, error.strerror or str(error), str(address)) from None
        self.places = Places(*places_at_hand())
        loop = asyncio.get_running_loop()
        for sock in self._listening.sockets:
            loop.add_reader(sock, self._accept, sock)
        self._ticking = loop.create_task(self._tick_forever())
        if self._actor is not None:
            self._actor.start()

    def _stop_listening(self) -> None:
        loop = asyncio.get_running_loop()
        for sock in self._listening.sockets:
            loop.remove_reader(sock)
        self._listening.close()
        self.addresses.clear()

    async def close(self) -> None:
        """Stop listening and let every peer go."""
        if self._ticking is not None:
            self._ticking.cancel()
        self._sharing.cancel()
        self._stop_listening()
        for peer in self.places.all():
            peer.drop()
        if self._actor is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._actor.close)

    def _accept(self, listener: socket.socket) -> None:
        """Take one connection; its place is a stranger's until it has shown who it is."""
        loop = asyncio.get_running_loop()
        try:
            sock, _ = listener.accept()
        except OSError as error:
            if error.errno in _OUT_OF:
                loop.remove_reader(listener)
                loop.call_later(_PAUSE, self._accept_again, listener)
                log.warning("can't accept: %s; trying again in %g s", error.strerror, _PAUSE)
            return  # else: it left again
        sock.setblocking(False)
        self._keys += 1
        address = self._listening.sockets[listener]
        key = f"peer-{self._keys}"
        peer = Peer(key, address, self.access, self.places, self._sharing, self._buffer)
        gone = self.places.come(peer)
        if gone is not None:
            gone.drop()
        peer.opening = loop.create_task(self._open(peer, sock, address))
        peer.opening.add_done_callback(lambda task: self._opened(peer, sock, task))

    async def _open(self, peer: Peer, sock: socket.socket, address: Address) -> None:
        tls = self.access.tls if address.kind == "tcp" else None
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: peer,
            sock,
            ssl=tls,
            ssl_handshake_timeout=HELLO_SECONDS if tls is not None else None,
            ssl_shutdown_timeout=HELLO_SECONDS if tls is not None else None,
        )

    def _opened(self, peer: Peer, sock: socket.socket, task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is not None:  # no TLS, or it left; not worth a line each
            self.places.leave(peer)
            sock.close()

    def _accept_again(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    async def _tick_forever(self) -> None:
        while True:
            now = time.monotonic()
            self._sharing.tick(now)
            for peer in self.places.all():
                peer.check(now)
            await asyncio.sleep(TICK)
