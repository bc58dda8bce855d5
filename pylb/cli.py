"""The command line: serve, check, explain, demo, status, scale.

The top floor: only `__main__` imports it. Options that stand for keys of the configuration are declared at
these keys and are only handed to typer here (`takes`). What else a command needs is imported when it runs,
so that ``--help`` and ``status`` answer at once. Whatever a user can get wrong ends with one line that
starts with ``pylb:`` and exit code 2, never with a traceback.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from controller import stderr
from pylb.config.options import OPTIONS, KeyOption

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pylb.config.model import Config

app = typer.Typer(
    help="A multiprocess load balancer whose worker count follows the idle cores.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

FileOption = Annotated[Path | None, typer.Option("-c", "--config", metavar="FILE", help="TOML file.")]
TokenOption = Annotated[
    Path | None,
    typer.Option("--token-file", metavar="FILE", help="The token that an admin address on TCP asks for."),
]


def takes(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command these options of the configuration, by `declaration.Option.name`.

    The command gets each as a keyword argument of that name: text, a list of texts where the key holds a
    list, or None where the option was not given. The model says what the text may be, and what holds without
    it.
    """

    def decorate(command: Any) -> Callable[..., None]:
        own = [
            parameter
            for parameter in inspect.signature(command, eval_str=True).parameters.values()
            if parameter.kind is not parameter.VAR_KEYWORD and parameter.name not in names
        ]
        panels = any(OPTIONS[name].quick for name in names)
        made = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=_declared(OPTIONS[name], panels),
                annotation=list[str] | None if OPTIONS[name].key.many else str | None,
            )
            for name in names
        ]
        command.__signature__ = inspect.Signature([*own, *made])
        return command  # type: ignore[no-any-return]

    return decorate


def _declared(option: KeyOption, panels: bool) -> Any:
    """What typer shows of an option; with ``panels`` the help says which of them go with a file."""
    panel = "Without a file" if option.quick else "With a file, in place of its keys, or without"
    return typer.Option(
        None,
        option.option.flag,
        metavar=option.metavar,
        help=option.help,
        show_default=option.default or False,
        rich_help_panel=panel if panels else None,
    )


def _version(asked: bool) -> None:
    if asked:
        from pylb import __version__

        print(f"pylb {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def fail(message: str, code: int = 2) -> NoReturn:
    """End with one line on standard error."""
    print(f"pylb: {message}", file=sys.stderr)
    raise typer.Exit(code)


@app.command()
@takes(*OPTIONS)
def serve(config: FileOption = None, **given: Any) -> None:
    """Run the balancer: -c FILE, or --bind and --server."""
    from pylb.config import load
    from pylb.explain.tested import load_tested

    quick = {name: given[name] for name, option in OPTIONS.items() if option.quick}
    if config is not None and any(quick.values()):
        flags = "/".join(OPTIONS[name].option.flag for name in quick)
        fail(f"-c FILE and {flags} exclude each other; put them into the file")
    if config is None and not (given["bind"] and given["server"]):
        fail("say what to serve: --bind ADDRESS --server ADDRESS, or -c FILE")

    def read() -> Config:
        return load.quick(**given) if config is None else load_tested(config, **given)

    run(read, str(config) if config is not None else None)


def run(
    read: Callable[[], Config],
    source: str | None,
    listening: Callable[[], None] = lambda: None,
    hangup_ends: bool = False,
) -> NoReturn:
    """Run the supervisor with what ``read`` gives; ``source`` names the file in messages.

    ``listening`` is called once all addresses are listened on; with ``hangup_ends`` HUP stops pylb instead of
    reloading the configuration.
    """
    from pylb import log
    from pylb.config.load import ConfigError
    from pylb.net.listeners import BindError
    from pylb.supervisor.arbiter import Arbiter

    stderr.take_over()
    try:
        configuration = read()
    except ConfigError as error:
        for problem in error.located:
            print(f"pylb: {problem}", file=sys.stderr)
        raise typer.Exit(2) from None
    except OSError as error:
        fail(f"{source}: {error.strerror or error}")
    log.setup(configuration.log.format, configuration.log.level)
    try:
        arbiter = Arbiter(
            configuration, read, hangup_ends=hangup_ends, file=os.path.abspath(source) if source else None
        )
    except (BindError, OSError) as error:
        fail(str(error))
    binds = ", ".join(str(bind) for frontend in configuration.frontends for bind in frontend.bind)
    limits = configuration.workers
    log.log.info(
        "serving %s with %d..%d workers; admin at %s", binds, limits.min, limits.max, arbiter.admin_address
    )
    listening()
    raise typer.Exit(arbiter.run())


@contextlib.contextmanager
def _mistakes_shown(file: Path) -> Iterator[None]:
    """End with all mistakes that are found in a configuration file."""
    from pylb.config.load import ConfigError

    try:
        yield
    except ConfigError as error:
        for problem in error.located:
            print(problem, file=sys.stderr)
        raise typer.Exit(1) from None
    except OSError as error:
        fail(f"{file}: {error.strerror or error}")


@app.command()
def check(config: Annotated[Path, typer.Option("-c", "--config", metavar="FILE", help="TOML file.")]) -> None:
    """Check a configuration file: print every mistake, run its tests, warn of rules that can never match."""
    from pylb.config.load import read_source
    from pylb.config.unreachable import unreachable
    from pylb.explain.tested import tested

    with _mistakes_shown(config):
        source = read_source(config)
        configuration = tested(source)
    for warning in unreachable(configuration, source.places.of):
        print(f"{source.places.of_problem(warning)}: warning: {warning}", file=sys.stderr)
    servers = sum(len(backend.servers) for backend in configuration.backends)
    print(
        f"{config}: ok: {len(configuration.frontends)} frontends, "
        f"{len(configuration.backends)} backends, {servers} servers"
        + (f", {len(configuration.tests)} tests" if configuration.tests else "")
    )


@app.command()
def explain(
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL", help="https://HOST/PATH?QUERY; in TCP mode tcp://HOST:PORT or tls://NAME."
        ),
    ],
    config: Annotated[Path, typer.Option("-c", "--config", metavar="FILE", help="TOML file.")],
    method: Annotated[str, typer.Option("--method", metavar="METHOD", help="The method.")] = "GET",
    header: Annotated[
        list[str] | None, typer.Option("--header", metavar="FIELD", help="'Name: value'; may be repeated.")
    ] = None,
    source: Annotated[str, typer.Option("--from", metavar="ADDRESS", help="Who asks.")] = "127.0.0.1",
    frontend: Annotated[str, typer.Option("--frontend", metavar="NAME", help="Who is asked.")] = "",
    alpn: Annotated[
        list[str] | None,
        typer.Option("--alpn", metavar="NAME", help="What a tls:// client offers; may be repeated."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say what becomes of a request, rule by rule."""
    from pylb.config.load import from_source, read_source
    from pylb.explain import dryrun, show
    from pylb.explain.request import BadRequest, Request, header_of

    with _mistakes_shown(config):
        origin = read_source(config)
        configuration = from_source(origin)
    try:
        request = Request(url, method.upper(), [header_of(one) for one in header or ()], source, alpn or ())
        outcome = dryrun.DryRun(configuration).ask(request, frontend)
    except BadRequest as error:
        fail(str(error))
    found = show.described(configuration, origin.places, request, outcome)
    print(json.dumps(found, indent=2) if json_ else show.text(found))


@app.command()
@takes("workers", "admin", "log_format")
def demo(
    bind: Annotated[
        str, typer.Option("--bind", metavar="ADDRESS", help="Where clients connect.")
    ] = "127.0.0.1:8080",
    **given: str | None,
) -> None:
    """Run five servers with a balancer before them to try."""
    from pylb import demo as demo_module

    try:
        servers = demo_module.start()
    except OSError as error:
        fail(f"the demo servers can't start: {error}")

    def read() -> Config:
        from pylb.config import load

        named = zip(servers.addresses, demo_module.TEMPERS, strict=True)
        quick = [f"{address},name={temper[0]}" for address, temper in named]
        return load.quick([bind], quick, **given)

    try:
        run(
            read, None, lambda: demo_module.welcome(bind, servers.addresses, given["admin"]), hangup_ends=True
        )
    finally:
        servers.stop()


@app.command()
@takes("admin")
def status(
    token_file: TokenOption = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show again every second.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    *,
    admin: str | None,
) -> None:
    """Show workers, servers, and why so many workers run.

    The exit code is 1 when no worker serves and 2 when no balancer answers, so this is a health check, too.
    """
    from rich.console import Console
    from rich.live import Live

    from pylb.control import view

    answer = ask(admin, token_file, "GET", "/status")
    console = Console()
    if json_:
        print(json.dumps(answer, indent=2))
    elif not watch:
        console.print(view.render(answer))
    if json_ or not watch:
        raise typer.Exit(0 if view.serving(answer) else 1)
    try:
        with Live(view.render(answer), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(1)
                live.update(view.render(ask(admin, token_file, "GET", "/status")), refresh=True)
    except KeyboardInterrupt:
        return


@app.command()
@takes("admin")
def why(
    server: Annotated[str, typer.Argument(metavar="SERVER", help="BACKEND/SERVER, or the server alone.")],
    token_file: TokenOption = None,
    json_: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    *,
    admin: str | None,
) -> None:
    """Say since when and why a server is up, down, ejected, draining or in maintenance."""
    from urllib.parse import quote

    answer = ask(admin, token_file, "GET", f"/why?server={quote(server, safe='')}")
    print(json.dumps(answer["servers"], indent=2) if json_ else answer["message"])


@app.command()
@takes("admin")
def scale(
    count: Annotated[str, typer.Argument(metavar="N|auto", help="A number of workers, or auto.")],
    token_file: TokenOption = None,
    *,
    admin: str | None,
) -> None:
    """Set the number of workers; auto gives it back."""
    if count != "auto" and re.fullmatch(r"\d{1,6}", count, re.ASCII) is None:
        fail(f"scale takes a number or 'auto' (got {count!r:.40})")
    body = {"n": count if count == "auto" else int(count)}
    answer = ask(admin, token_file, "POST", "/scale", body)
    print(answer["message"])


def ask(
    admin: str | None, token_file: Path | None, method: str, path: str, body: object = None
) -> dict[str, object]:
    """The admin address's answer: of ``admin``, or of the first usual place where one answers."""
    from pylb.config.address import Address, parse_address
    from pylb.config.files import read_token
    from pylb.config.runtime import admin_paths, distrust
    from pylb.control import view

    try:
        given = None if admin is None else parse_address(admin)
    except ValueError as error:
        fail(f"--admin: {error}")
    try:
        token = read_token(str(token_file)) if token_file is not None else None
    except (OSError, ValueError) as error:
        fail(f"--token-file: {error}")
    problems = []
    for address in [given] if given is not None else [Address("", 0, one) for one in admin_paths()]:
        doubt = distrust(address.path) if admin is None else ""
        if doubt:
            problems.append(doubt)
            continue
        try:
            return view.fetch(address, method, path, body, token=token)
        except OSError as error:
            problems.append(f"no balancer answers at {address}: {error.strerror or error}")
        except view.AdminError as error:
            fail(str(error))
    fail("; ".join(problems) + "; is it running? (--admin ADDRESS)")


def main() -> None:
    """Entry point of ``pylb`` and ``python -m pylb``."""
    stderr.fill()
    try:
        code = app(standalone_mode=False)  # typer would print its mistakes in a frame of six lines
    except typer.TyperException as error:
        if message := error.format_message():  # empty where the help has been printed instead
            print(f"pylb: {message[0].lower()}{message[1:].rstrip('.')} (see --help)", file=sys.stderr)
        code = 2
    sys.exit(code)
