"""Root starts pylb with ``user``: what touches a client's bytes is nobody's, and everything works as before.

Python itself may lie where that user can't read it, so nothing may be imported late, either.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from bench.rig.balancer import Balancer, free_port
from bench.rig.processes import titles
from tests.e2e.conftest import StartBalancer
from tests.e2e.http2client import Client
from tests.e2e.origin import Origin

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

USER = "nobody"
GET = b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n"
PATIENCE = 60.0


def low_port() -> int:
    """A free port that only root may listen on."""
    ports: list[int] = [80, *range(1023, 600, -1)]
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no low port is free")


class Site:
    """Two frontends: a plain one, whose server is the other one, with TLS on both sides; keys are root's."""

    def __init__(self, folder: Path, origin: Origin) -> None:
        self.folder, self.origin = folder, origin
        self.ca = trustme.CA()
        self.secret = folder / "secret"
        self.secret.mkdir(mode=0o700)
        self.port, self.tls_port = low_port(), free_port()
        self.front = folder / "front.sock"
        self.ca.cert_pem.write_to_path(self.secret / "ca.pem")
        (self.secret / "ca.pem").chmod(0o600)
        self.issue()
        self.token = self.secret / "token"
        self.token.write_text("the token\n")
        self.token.chmod(0o600)
        self.file = folder / "pylb.toml"

    def issue(self) -> None:
        """New keys."""
        for name in ("localhost", "client"):
            made = self.ca.issue_cert(name)
            pem = made.private_key_pem.bytes() + b"".join(blob.bytes() for blob in made.cert_chain_pems)
            file = self.secret / f"{name}.pem"
            file.touch(0o600)
            file.write_bytes(pem)

    def write(self, head: str = f'user = "{USER}"', more: str = "", port: int = 0) -> None:
        """The configuration, owned by root, 0600."""
        self.file.touch(0o600)
        self.file.write_text(
            f"{head}\nworkers = {{min = 1, max = 2}}\n{more}\n"
            f'[[frontend]]\nname = "plain"\nbackend = "tls"\n'
            f'bind = ["127.0.0.1:{port or self.port}", "unix:{self.front}"]\n'
            f'[[frontend]]\nname = "tls"\nbind = "127.0.0.1:{self.tls_port}"\nbackend = "b"\n'
            f'[frontend.tls]\ncertificates = "{self.secret}/localhost.pem"\n'
            f'client_certificate = "required"\nclient_ca = "{self.secret}/ca.pem"\n'
            f'[[backend]]\nname = "b"\n[[backend.server]]\naddress = "{self.origin.address}"\n'
            f'[[backend]]\nname = "tls"\n[[backend.server]]\naddress = "localhost:{self.tls_port}"\n'
            f'[backend.tls]\nca = "{self.secret}/ca.pem"\n'
            f'certificate = "{self.secret}/client.pem"\nkey = "{self.secret}/client.pem"\n'
        )

    def context(self, *alpn: str) -> ssl.SSLContext:
        """A client's, with its certificate."""
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        context.load_cert_chain(self.secret / "client.pem")
        context.set_alpn_protocols(list(alpn))
        return context


@pytest.fixture
def site(origin: Origin) -> Iterator[Site]:
    # Not pytest's own folder, which is closed to others.
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o711)
        yield Site(Path(folder), origin)


def ask(sock: socket.socket) -> None:
    sock.settimeout(PATIENCE)
    sock.sendall(GET)
    data = b""
    while b'"body"' not in data:
        piece = sock.recv(65536)
        assert piece, data
        data += piece
    assert data.startswith(b"HTTP/1.1 200 ")


def ask_at(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        ask(sock)


def facts(pid: int) -> dict[str, str]:
    """/proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: " ".join(value.split()) for key, _, value in (line.partition(":") for line in lines)}


def children(running: Balancer) -> dict[str, int]:
    """Titles and pids."""
    return titles(running.process.pid)


def all_are(running: Balancer, uid: int, gid: int, groups: str) -> None:
    titles = children(running)
    assert len(titles) >= 2 and "pylb: control" in titles
    for title, pid in titles.items():
        seen = facts(pid)
        assert seen["Uid"] == " ".join([str(uid)] * 4), title
        assert seen["Gid"] == " ".join([str(gid)] * 4), title
        assert seen["Groups"] == groups, title
        assert seen["NoNewPrivs"] == "1", title
        if uid:
            assert {seen[f"Cap{which}"] for which in ("Prm", "Eff", "Amb")} == {"0" * 16}, title


def as_user(action: Callable[[], object]) -> bool:
    """Whether something succeeds for the unprivileged user; in a child."""
    entry = pwd.getpwnam(USER)
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(BaseException):
            os.setgroups([])
            os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
            os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
            action()
            code = 0
        os._exit(code)
    return os.waitpid(pid, 0)[1] == 0


def connect_to(path: str) -> Callable[[], None]:
    def connect() -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)

    return connect


def test_workers_and_control_plane_are_the_users_and_all_goes_on(balancer: StartBalancer, site: Site) -> None:
    entry = pwd.getpwnam(USER)
    groups = " ".join(map(str, sorted(os.getgrouplist(USER, entry.pw_gid))))
    site.write()
    running = balancer("-c", str(site.file))
    assert not as_user(site.token.read_text)
    all_are(running, entry.pw_uid, entry.pw_gid, groups)
    assert facts(running.process.pid)["Uid"] == "0 0 0 0"

    # A low port, TLS to servers and clients with keys that are root's, names to resolve, HTTP/2.
    ask_at(site.port)
    raw = socket.create_connection(("127.0.0.1", site.tls_port), PATIENCE)
    with site.context("http/1.1").wrap_socket(raw, server_hostname="localhost") as sock:
        ask(sock)
    raw = socket.create_connection(("127.0.0.1", site.tls_port), PATIENCE)
    with site.context("h2").wrap_socket(raw, server_hostname="localhost") as sock:
        assert sock.selected_alpn_protocol() == "h2"
        client = Client(site.tls_port, sock=sock)
        assert (":status", "200") in client.answer(client.request("/echo"))[0]

    # The unix sockets are the user's.
    for path in (str(site.front), running.admin.path):
        assert os.stat(path).st_uid == entry.pw_uid
    assert as_user(connect_to(str(site.front)))
    with socket.socket(socket.AF_UNIX) as local:
        local.connect(str(site.front))
        ask(local)

    # Hand-over, growth, the death of both.
    with contextlib.ExitStack() as stack:
        address = ("127.0.0.1", site.port)
        clients = [stack.enter_context(socket.create_connection(address, PATIENCE)) for _ in range(8)]
        for one in clients:
            ask(one)
        running.scale(2)
        running.wait("levelled", lambda status: sum(w["adopted"] for w in status["workers"]) >= 2)
        for one in clients:
            ask(one)
        running.scale(1)
        for one in clients:
            ask(one)
    before = children(running)
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    ask_at(site.port)
    running.wait("a control plane", lambda status: running.workers()[0]["pid"] not in before.values())
    all_are(running, entry.pw_uid, entry.pw_gid, groups)

    # Renewed keys and another low port at a reload.
    site.issue()
    before_port, site.port = site.port, next(p for p in range(1000, 600, -1) if p != site.port)
    site.write()
    running.signal(signal.SIGHUP)
    running.wait("reloaded", lambda status: [w["generation"] for w in status["workers"]] == [2])
    running.wait("this control plane", lambda status: status["generation"] == 2)
    ask_at(site.port)
    with pytest.raises(ConnectionRefusedError):
        ask_at(before_port)
    all_are(running, entry.pw_uid, entry.pw_gid, groups)
    status = running.status()
    assert status["totals"]["status_5xx"] == 0
    assert "Error" not in running.log.read_text() and "Traceback" not in running.log.read_text()
    assert running.stop() == 0


def test_a_reload_changes_the_user_or_refuses_a_stranger(balancer: StartBalancer, site: Site) -> None:
    entry = pwd.getpwnam(USER)
    site.write("", port=site.port)
    running = balancer("-c", str(site.file))
    assert "all processes run as root" in running.log.read_text()
    all_are(running, 0, 0, facts(os.getpid())["Groups"])
    group = next(one for one in grp.getgrall() if one.gr_gid not in (0, entry.pw_gid))
    site.write(f'user = "{entry.pw_uid}"\ngroup = "{group.gr_name}"')
    running.signal(signal.SIGHUP)
    running.wait("reloaded", lambda status: [w["generation"] for w in status["workers"]] == [2])

    def replaced(_: object) -> bool:
        pid = children(running).get("pylb: control")
        return pid is not None and facts(pid)["Uid"][0] != "0"

    running.wait("its control plane", replaced)
    groups = " ".join(map(str, sorted(os.getgrouplist(USER, group.gr_gid))))
    all_are(running, entry.pw_uid, group.gr_gid, groups)
    for path in (str(site.front), running.admin.path):
        assert (os.stat(path).st_uid, os.stat(path).st_gid) == (entry.pw_uid, group.gr_gid)
    ask_at(site.port)
    for head, says in (
        ('user = "no-such-user"', "user: this machine has no user 'no-such-user'"),
        (f'user = "{USER}"\ngroup = "no-such-group"', "group: this machine has no group 'no-such-group'"),
        ('user = "4000000"', "user: 4000000 is not in the user database"),
    ):
        site.write(head)
        running.signal(signal.SIGHUP)
        running.wait("refused", lambda status, says=says: says in str(status["reload"]))  # type: ignore[misc]
    # A number that has no name, with a group, is somebody, too.
    site.write('user = "4000000"\ngroup = "4000001"')
    running.signal(signal.SIGHUP)
    running.wait("reloaded", lambda status: [w["generation"] for w in status["workers"]] == [3])
    ask_at(site.port)
    assert running.stop() == 0


@pytest.fixture
def controller(site: Site) -> Iterator[Callable[..., str]]:
    """Starts a controller; gives its address."""
    started: list[subprocess.Popen[str]] = []

    def start(listen: str, *more: str) -> str:
        command = [sys.executable, "-m", "controller", "--listen", listen, *more]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stderr is not None
        return process.stderr.readline().partition("listening on ")[2].partition(", source")[0]

    yield start
    for process in started:
        process.terminate()
        process.communicate(timeout=PATIENCE)


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_the_controllers_checks(
    balancer: StartBalancer, site: Site, controller: Callable[..., str], kind: str
) -> None:
    """Over a unix socket it sees the user's uid; over TCP the token is read from a file that is root's."""
    uid = str(pwd.getpwnam(USER).pw_uid)
    if kind == "unix":
        address = controller(f"unix:{site.folder}/controller.sock", "--allow-uid", uid)
        more = f'[controller]\naddress = "{address}"\n'
    else:
        address = controller("tcp:127.0.0.1:0", "--token-file", str(site.token))
        more = f'[controller]\naddress = "{address}"\ntoken_file = "{site.token}"\n'
    site.write(more=more)
    running = balancer("-c", str(site.file))

    def granted() -> None:
        running.wait("granted", lambda status: status["scaling"]["granted_cores"] is not None)

    granted()
    os.kill(children(running)["pylb: control"], signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE
    while "pylb: control" not in children(running):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    granted()


def test_without_a_user_root_is_warned(balancer: StartBalancer, origin: Origin) -> None:
    running = balancer("--workers", "1", servers=(origin.address,))
    assert "all processes run as root: set user" in running.log.read_text()
    assert not as_user(connect_to(running.admin.path))


def test_what_root_may_not_do_here_is_said_at_the_start(site: Site) -> None:
    """A container or a unit that takes capabilities away."""
    site.write()
    for number in (5, 7):  # man 7 capabilities: CAP_KILL, CAP_SETUID

        def without(number: int = number) -> None:
            # man 2 prctl: PR_CAPBSET_DROP; gone with the exec that follows.
            import ctypes

            ctypes.CDLL(None).prctl(24, number)

        done = subprocess.run(
            [sys.executable, "-m", "pylb", "serve", "-c", str(site.file), "--admin", f"unix:{site.folder}/a"],
            capture_output=True, text=True, timeout=60, preexec_fn=without,
        )  # fmt: skip
        assert done.returncode == 2, done.stderr
        assert done.stderr.count("\n") == 1
        assert "user: can't become uid" in done.stderr
