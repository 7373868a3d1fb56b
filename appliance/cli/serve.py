"""`carillon serve`: the one process that is the appliance.

Order of starting: folder and keys, lock, port, facts for `status`, then the data is opened and the doors are. Order of
stopping (SIGTERM or SIGINT): the hub says goodbye to its clients, running requests are answered, the engine stops, the
data is closed. Whoever sends the signal a second time, or waits for more than 20 s, has the process end at once: what
was accepted is on disk in any case.
"""

import asyncio
import contextlib
import errno
import gc
import logging
import os
import resource
import signal
import socket
import threading
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import uvloop
from granian.constants import HTTPModes, Interfaces, SSLProtocols
from granian.http import HTTP1Settings
from granian.server.embed import Server

from appliance import __version__
from appliance.asgi import Application, build
from appliance.cli.data_folder import is_prepared, require_prepared
from appliance.cli.exits import CommandFailed, Exit
from appliance.cli.instance import PID_FILE, holding_lock, write_instance
from appliance.cli.prepare import prepare
from appliance.hub.lean_limits import LeanLimits
from appliance.hub.lean_listener import LeanListener
from appliance.ops.connection_guard import ConnectionGuard, notice_lost_peers
from appliance.ops.logs import set_up_logging
from appliance.settings import Settings, load_settings

logger = logging.getLogger(__name__)

_Address = tuple[Any, ...]

GRACE_S: Final = 20.0
LISTEN_WITHIN_S: Final = 15.0
RESERVE_WITHIN_S: Final = 1.0
_HIGHEST_PORT: Final = 65_535
_LOOK_EVERY_S: Final = 0.02
# Kept out of the sockets' share: the database, logs, outbound connections, the runtime's own.
_OTHER_FILES: Final = 512
_FEWEST_HTTP_CONNECTIONS: Final = 64
# Objects made per start of a collection: the defaults scan a hub of thousands of connections far too often.
_COLLECT_AFTER: Final = (50_000, 20, 50)


def run(args: Namespace) -> int:
    """Serve until told to stop. Raises `CommandFailed`: code 4 when the port is taken, 9 when the folder is in use."""
    folder: Path = args.data
    if not is_prepared(folder):
        prepare(folder)
    require_prepared(folder)
    with holding_lock(folder):
        settings = _settings_of(args, folder)
        set_up_logging(settings)
        with contextlib.ExitStack() as reservations:
            settings, hub_socket = reserve_ports(settings, reservations)
            write_instance(
                folder,
                host=settings.host,
                port=settings.port,
                hub_port=settings.hub_port,
                tls=settings.tls_cert is not None,
                started_at=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            )
            try:
                raise_open_files_limit()
                with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                    runner.run(_serve(settings, hub_socket))
            finally:
                (folder / PID_FILE).unlink(missing_ok=True)
    return Exit.DONE


def _settings_of(args: Namespace, folder: Path) -> Settings:
    settings = load_settings(folder)
    if args.host is not None:
        settings = replace(settings, host=args.host)
    if args.port is not None:
        settings = replace(settings, port=args.port)
    for path in (settings.tls_cert, settings.tls_key):
        if path is not None and not os.access(path, os.R_OK):
            raise CommandFailed(f"{path} (TLS_CERT or TLS_KEY) cannot be read.", code=Exit.USAGE)
    return settings


def raise_open_files_limit() -> None:
    """Let this process open as many files (sockets) as its hard limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def most_http_connections(settings: Settings) -> int:
    """Give how many HTTP connections may be open at once: what is set, or what the open files leave beside the hub."""
    left = _count_files_beside_hub(settings) - most_lean_connections(settings)
    return max(_FEWEST_HTTP_CONNECTIONS, min(settings.http_max_connections, left))


def most_lean_connections(settings: Settings) -> int:
    """Give how many HTTP connections the hub's own port may have open that are not the hub's; 0 without that port."""
    if settings.hub_listener != "lean":
        return 0
    # A quarter of what is left: the main port must have room whatever happens on this one.
    return max(_FEWEST_HTTP_CONNECTIONS, min(settings.http_backlog, _count_files_beside_hub(settings) // 4))


def _count_files_beside_hub(settings: Settings) -> int:
    open_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return open_files - settings.hub_max_connections - _OTHER_FILES


def reserve_port(host: str, port: int) -> socket.socket:
    """Take the port, so that only this user's own server can listen on it. Port 0 is one that is free.

    Of several that ask at the same instant one gets it. Raises `CommandFailed`, with code 4 when it is taken.
    """
    family, address = _resolve(host, port)
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # The server shares ports with equals (SO_REUSEPORT), so whether another one has it must be asked without that.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with _telling_port_faults(host, port):
            probe.bind(address)
            # Several may bind an address on which none listens yet; of those that start at once, one gets to listen.
            probe.listen(1)
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        return _reserve_beside(probe, host, port)


def _reserve_beside(probe: socket.socket, host: str, port: int) -> socket.socket:
    # Who lost the race against the probe may still hold the address for the instant that it takes to give up.
    until = time.monotonic() + RESERVE_WITHIN_S
    while True:
        reserved = socket.socket(probe.family, socket.SOCK_STREAM)
        try:
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            # After a crash clients return in crowds, and some reach the probe: their connections share by this only.
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with _telling_port_faults(host, port):
                reserved.bind(probe.getsockname())
            # From now on another program's probe must find the port taken.
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
            return reserved
        except CommandFailed as failure:
            reserved.close()
            if failure.code is not Exit.PORT_TAKEN or time.monotonic() >= until:
                raise
            time.sleep(_LOOK_EVERY_S)


def reserve_ports(settings: Settings, reservations: contextlib.ExitStack) -> tuple[Settings, socket.socket | None]:
    """Take the port, and the lean listener's where it is wanted; give the settings with the ports that they are."""
    reserved = reservations.enter_context(reserve_port(settings.host, settings.port))
    port: int = reserved.getsockname()[1]
    if settings.hub_listener != "lean":
        return replace(settings, port=port, hub_port=None), None
    # Who takes any free port for the one takes any for the other.
    asked = settings.hub_port if settings.hub_port is not None else port + 1 if settings.port else 0
    if asked > _HIGHEST_PORT:
        raise CommandFailed("there is no port after PORT for the hub's listener.", "Set HUB_PORT.", code=Exit.USAGE)
    hub_socket = reservations.enter_context(reserve_port(settings.host, asked))
    return replace(settings, port=port, hub_port=hub_socket.getsockname()[1]), hub_socket


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, _Address]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise CommandFailed(f"{host!r} is no address of this machine: {error}.", code=Exit.USAGE) from error
    family, _, _, _, address = found[0]
    return family, address


@contextlib.contextmanager
def _telling_port_faults(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise CommandFailed(
                f"port {port} on {host} is in use by another program.",
                "Stop that program, or choose another port with --port N.",
                code=Exit.PORT_TAKEN,
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise CommandFailed(
                f"this user may not listen on port {port}.", "Choose a port from 1024 on.", code=Exit.PORT_TAKEN
            ) from error
        raise CommandFailed(f"cannot listen on {host}: {error.strerror}.", code=Exit.USAGE) from error


async def _serve(settings: Settings, hub_socket: socket.socket | None) -> None:
    stopping = asyncio.Event()
    _stop_on_signals(stopping)
    async with build(settings) as application:
        guard = ConnectionGuard(
            application.asgi,
            settings.port,
            most=most_http_connections(settings),
            most_of_site=settings.http_max_connections_per_address,
            trusted_proxies=settings.trusted_proxies,
        )
        server = _make_server(settings, guard)
        hub_listener = None if hub_socket is None else _make_hub_listener(settings, application, hub_socket)
        serving = asyncio.create_task(server.serve(), name="http-server")
        guarding = asyncio.create_task(guard.run(), name="connection-guard")
        try:
            await _until_listening(settings, serving, stopping)
            if hub_listener is not None:
                await hub_listener.start()
            notice_lost_peers(settings.port)
            gc.collect()
            gc.freeze()
            gc.set_threshold(*_COLLECT_AFTER)
            _announce(settings)
            await _until_told(stopping, serving)
            logger.info("server_stopping")
            await application.drain()
        finally:
            guarding.cancel()
            if hub_listener is not None:
                await hub_listener.stop()
            server.stop()  # type: ignore[no-untyped-call]
            await asyncio.wait({serving, guarding})
    logger.info("server_stopped")


def _make_server(settings: Settings, guard: ConnectionGuard) -> Server:
    cores = os.cpu_count() or 1
    return Server(
        guard,
        address=settings.host,
        port=settings.port,
        interface=Interfaces.ASGI,
        runtime_threads=settings.runtime_threads or min(2, cores),
        # Not `auto`: that mode waits without a deadline for the first byte, to see which version it begins.
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=settings.http_head_timeout_s * 1000),
        websockets=True,
        backlog=settings.http_backlog,
        # Counts TCP connections, idle ones too; upgraded WebSockets do not count. Unset it would follow the backlog.
        backpressure=most_http_connections(settings),
        log_enabled=False,
        ssl_cert=settings.tls_cert,
        ssl_key=settings.tls_key,
        ssl_protocol_min=SSLProtocols.tls12,
    )


def _make_hub_listener(settings: Settings, application: Application, hub_socket: socket.socket) -> LeanListener:
    try:
        return LeanListener(
            application.serve_hub,
            hub_socket,
            limits=LeanLimits(
                head_deadline_s=settings.http_head_timeout_s,
                http_connections=most_lean_connections(settings),
                http_connections_per_address=settings.hub_max_connections_per_address,
            ),
            trusted_proxies=settings.trusted_proxies,
            tls_cert=settings.tls_cert,
            tls_key=settings.tls_key,
            backlog=settings.http_backlog,
        )
    except (OSError, ValueError) as error:
        raise CommandFailed(f"TLS_CERT and TLS_KEY cannot be used: {error}.", code=Exit.USAGE) from error


def _stop_on_signals(stopping: asyncio.Event) -> None:
    def told(number: int) -> None:
        if stopping.is_set():
            logger.warning("server_stop_forced", extra={"signal": signal.Signals(number).name})
            os._exit(Exit.DONE)
        stopping.set()
        # A thread, so that it also fires when the event loop itself hangs.
        watchdog = threading.Timer(GRACE_S, _end_at_once)
        watchdog.daemon = True
        watchdog.start()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told, number)


def _end_at_once() -> None:
    logger.error("server_stop_forced", extra={"after_s": GRACE_S})
    os._exit(Exit.DONE)


async def _until_listening(settings: Settings, serving: asyncio.Task[None], stopping: asyncio.Event) -> None:
    family, address = _resolve(settings.host, settings.port)
    async with asyncio.timeout(LISTEN_WITHIN_S):
        while not stopping.is_set():
            if serving.done():
                raise CommandFailed("the HTTP server did not start.") from serving.exception()
            with socket.socket(family, socket.SOCK_STREAM) as visitor:
                visitor.setblocking(False)
                try:
                    await asyncio.get_running_loop().sock_connect(visitor, address)
                except OSError:
                    await asyncio.sleep(_LOOK_EVERY_S)
                else:
                    return


def _announce(settings: Settings) -> None:
    scheme = "https" if settings.tls_cert is not None else "http"
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"{scheme}://{host}:{settings.port}"
    logger.info("server_listening", extra={"url": url, "version": __version__, "data": str(settings.data_dir)})
    if settings.hub_port is not None:
        logger.info("hub_listening", extra={"url": f"{scheme}://{host}:{settings.hub_port}"})


async def _until_told(stopping: asyncio.Event, serving: asyncio.Task[None]) -> None:
    told = asyncio.create_task(stopping.wait(), name="stop-signal")
    try:
        await asyncio.wait((told, serving), return_when=asyncio.FIRST_COMPLETED)
    finally:
        told.cancel()
    if serving.done() and not stopping.is_set():
        raise CommandFailed("the HTTP server ended by itself.") from serving.exception()
