"""``python -m controller``: serve idle cores, or show who has them (``status``)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from controller.access import Access, server_tls
from controller.act.settings import Machines, make_actor
from controller.address import Address, parse
from controller.client import client_tls, open_stream
from controller.descriptors import raise_descriptor_limit
from controller.protocol import MAX_STATUS, Error, LineDecoder, Status, StatusRequest, encode
from controller.server import ControllerServer
from controller.sources import SOURCES
from controller.stderr import Formatter, Handler, fill, take_over

DEFAULT = "unix:/run/pylb-controller.sock"
app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

TokenOption = Annotated[Path | None, typer.Option("--token-file", metavar="FILE", help="The shared token.")]
CertOption = Annotated[str | None, typer.Option("--tls-cert", metavar="FILE", help="Our certificate (PEM).")]
KeyOption = Annotated[str | None, typer.Option("--tls-key", metavar="FILE", help="Its key (PEM).")]
CaOption = Annotated[
    str | None, typer.Option("--tls-ca", metavar="FILE", help="CA of the peers' certificates (PEM).")
]


def fail(message: str) -> NoReturn:
    """End with one line on standard error and exit code 2."""
    print(f"controller: {message}", file=sys.stderr)
    raise typer.Exit(2)


def _address(text: str) -> Address:
    try:
        return parse(text)
    except ValueError as error:
        fail(str(error))


def _token(file: Path | None) -> str:
    if file is None:
        return ""
    try:
        token = file.read_text().strip()
    except OSError as error:
        fail(f"{file}: {error.strerror}")
    except UnicodeDecodeError as error:
        fail(f"{file}: {error}")
    return token or fail(f"{file} holds no token")


@app.callback(invoke_without_command=True)
def serve(
    context: typer.Context,
    listen: Annotated[
        list[str] | None,
        typer.Option(
            "--listen",
            metavar="ADDRESS",
            help="Where balancers connect: unix:PATH, tcp:HOST:PORT, vsock:CID:PORT, hvsock:PATH:PORT; "
            f"may be repeated. [default: {DEFAULT}]",
        ),
    ] = None,
    source: Annotated[
        str,
        typer.Option(
            "--source",
            metavar="NAME[:FILE]",
            help="What knows the idle cores: measured, table:FILE, cgroups:FILE, hypervisor:FILE.",
        ),
    ] = "measured",
    act: Annotated[
        Path | None,
        typer.Option(
            "--act",
            metavar="FILE",
            help="Give balancers' machines preference while they are under pressure, as FILE says "
            "(may be empty); needs the source hypervisor.",
        ),
    ] = None,
    token_file: TokenOption = None,
    tls_cert: CertOption = None,
    tls_key: KeyOption = None,
    tls_ca: CaOption = None,
    allow_uid: Annotated[
        list[int] | None,
        typer.Option(
            "--allow-uid", metavar="UID", help="A user who may connect, beside our own; may be repeated."
        ),
    ] = None,
) -> None:
    """Measure idle cores and lease them to load balancers."""
    if context.invoked_subcommand is not None:
        return
    handler = Handler(take_over())
    addresses = [_address(text) for text in listen or [DEFAULT]]
    name, _, argument = source.partition(":")
    if name not in SOURCES:
        fail(f"unknown source {name!r}; allowed: {', '.join(SOURCES)}")
    token = _token(token_file)
    if any(address.kind == "tcp" for address in addresses) and not token and not tls_ca:
        fail("tcp needs --token-file, or --tls-cert, --tls-key and --tls-ca: strangers get no cores")
    if bool(tls_cert) != bool(tls_key) or (tls_ca and not tls_cert):
        fail("TLS needs --tls-cert and --tls-key, and --tls-ca to check peers")
    try:
        tls = server_tls(tls_cert, tls_key, tls_ca) if tls_cert and tls_key else None
        knows = SOURCES[name](argument)
        if act is not None and not isinstance(knows, Machines):
            fail(f"--act needs --source hypervisor:FILE: the source {name} knows no machines")
        actor = make_actor(act, knows) if act is not None and isinstance(knows, Machines) else None
        server = ControllerServer(knows, Access(token, tls, frozenset(allow_uid or ())), actor)
    except (OSError, ValueError) as error:
        fail(str(error))
    handler.setFormatter(Formatter("controller"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    try:
        asyncio.run(_serve(server, addresses, handler))
    except OSError as error:
        fail(f"can't listen on {error.filename}: {error.strerror}")


async def _serve(server: ControllerServer, addresses: list[Address], handler: Handler) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    raise_descriptor_limit()
    await server.start(*addresses)
    logging.info("listening on %s, source %s", ", ".join(map(str, server.addresses)), server.source.name)
    log = take_over()
    while not stop.is_set():
        log.finish()
        log.tell(log.lost, handler.warning)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 1)
    await server.close()


@app.command()
def status(
    address: Annotated[
        str, typer.Option("--address", metavar="ADDRESS", help="Where the controller listens.")
    ] = DEFAULT,
    json_: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    token_file: TokenOption = None,
    tls_cert: CertOption = None,
    tls_key: KeyOption = None,
    tls_ca: CaOption = None,
) -> None:
    """Show cores, idleness and leases."""
    where = _address(address)
    try:
        tls = client_tls(tls_ca, tls_cert, tls_key) if tls_ca else None
        answer = asyncio.run(asyncio.wait_for(_ask(where, _token(token_file), tls), 5))
    except (OSError, TimeoutError) as error:
        why = getattr(error, "strerror", None) or str(error) or "time is up"
        fail(f"no controller answers at {where}: {why}; is it running? (--address ADDRESS)")
    if isinstance(answer, Error):
        fail(f"{where}: {answer.message}")
    if json_:
        print(json.dumps(asdict(answer), indent=2))
    else:
        _show(answer)


async def _ask(address: Address, token: str, tls: object) -> Status | Error:
    import ssl

    assert tls is None or isinstance(tls, ssl.SSLContext)
    reader, writer = await open_stream(address, tls)
    writer.write(encode(StatusRequest(token)))
    decoder = LineDecoder(MAX_STATUS)
    try:
        while data := await reader.read(65536):
            for message in decoder.feed(data):
                if isinstance(message, Status | Error):
                    return message
    finally:
        writer.transport.abort()
    raise OSError("it closed the connection")


def _show(answer: Status) -> None:
    console = Console(markup=False)  # names are the balancers' own
    console.print(f"{answer.idle_cores:.2f} of {answer.usable_cores:g} cores idle (source: {answer.source})")
    if answer.per_cpu_idle:
        shares = (f"cpu{cpu} {100 * idle:.0f}%" for cpu, idle in enumerate(answer.per_cpu_idle))
        console.print("  ".join(shares))
    console.print()
    table = Table("balancer", box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("workers", "min..max", "weight", "busy", "pressure", "leased"):
        table.add_column(column, justify="right")
    machines = [str(lease.get("machine", lease["name"])) for lease in answer.leases]
    if answer.source == "hypervisor" or machines != [lease["name"] for lease in answer.leases]:
        table.add_column("machine")  # else the same as the name
    for lease, machine in zip(answer.leases, machines, strict=True):
        table.add_row(
            str(lease["name"]),
            str(lease["workers"]),
            f"{lease['min']}..{lease['max']}",
            f"{lease['weight']:g}",
            f"{lease['busy']:.2f}",
            f"{lease['pressure']:.2f}",
            str(lease["cores"]),
            *([machine] if len(table.columns) == 8 else []),
        )
    console.print(table)
    for one in answer.preferred:
        has = f"weight {one['weight']} instead of {one['usual']}" if one["weight"] else ""
        if one["vcpus"]:
            vcpus = ", ".join(map(str, one["vcpus"]))
            has = f"{has}, vCPUs {vcpus} online" if has else f"vCPUs {vcpus} online"
        problem = f" ({one['problem']})" if one["problem"] else ""
        console.print(f"\npreferred: {one['machine']}: {has or 'not yet'}{problem}: {one['reason']}")
    if answer.actions:
        console.print()
    for did in answer.actions:
        at = time.strftime("%H:%M:%S", time.localtime(did["at"]))
        console.print(f"{at} {did['machine']}: {did['action']}: {did['reason']}")


if __name__ == "__main__":
    fill()
    app()
