"""Runs the dashboard's server: what it may listen on, the link that it prints, and how it ends."""

import argparse
import signal
import socket
import ssl
import sys
import threading
from pathlib import Path

import uvicorn

from fedloom_edge.errors import InputError
from fedloom_server.dashboard.access import Access, read_token, session_key
from fedloom_server.dashboard.app import make_app
from fedloom_server.dashboard.catalog import Catalog
from fedloom_server.dashboard.tail import Tail

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_GRACE = 1  # seconds for open answers at the end


def serve(arguments: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code.

    Raises:
        InputError: an option is wrong, or would let others in without TLS and a token.
    """
    _check(arguments)
    folders = arguments.folders or [Path("runs")]
    catalog = Catalog(folders)
    token = read_token(arguments.token_file) if arguments.token_file else None
    access = Access(session_key(), token)
    secure = arguments.tls_cert is not None
    listener = _listen(arguments.host, arguments.port, any_port=arguments.any_port)
    port = listener.getsockname()[1]
    shown = _shown(arguments.host)
    tail = Tail(catalog)
    app = make_app(
        catalog,
        access,
        tail,
        hosts=_hosts(arguments.host, arguments.allow_host),
        secure=secure,
        read_only=arguments.read_only,
    )
    server = _Server(
        tail,
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=_GRACE,
            timeout_keep_alive=30,
            limit_concurrency=512,
            ws="none",
            # What the server extra brings, also where uvloop and httptools happen to be installed: the
            # bound below is h11's, and uvloop raises where a browser has gone away.
            loop="asyncio",
            http="h11",
            h11_max_incomplete_event_size=16_384,
            ssl_certfile=arguments.tls_cert,
            ssl_keyfile=arguments.tls_key,
        ),
    )
    address = f"{'https' if secure else 'http'}://{shown}:{port}"
    _say(address, access)
    # A command ends with its output's pipe; a server must not end with a browser that goes away.
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    if arguments.until_stdin_closes:
        threading.Thread(target=_end_with_stdin, args=[server], daemon=True).start()
    with listener:
        server.run(sockets=[listener])
    return 0


class _Server(uvicorn.Server):
    """Lets the streams go before it waits for open answers, so that it ends at once and without a word."""

    def __init__(self, tail: Tail, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._tail = tail

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End."""
        self._tail.end_streams()
        await super().shutdown(sockets)


def _end_with_stdin(server: uvicorn.Server) -> None:
    sys.stdin.read()
    server.should_exit = True


def _check(arguments: argparse.Namespace) -> None:
    if not 0 <= arguments.port <= 65535:
        raise InputError(f"--port {arguments.port}: give a port from 0 to 65535")
    if (arguments.tls_cert is None) != (arguments.tls_key is None):
        raise InputError("--tls-cert and --tls-key belong together; give both")
    if arguments.tls_cert is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(arguments.tls_cert, arguments.tls_key)
        except (OSError, ssl.SSLError) as error:
            raise InputError(f"--tls-cert {arguments.tls_cert}: {error}; give a PEM pair") from error
    if arguments.host in _LOOPBACK:
        return
    missing = [
        option
        for option, given in (
            ("--tls-cert and --tls-key", arguments.tls_cert),
            ("--token-file", arguments.token_file),
        )
        if given is None
    ]
    if missing:
        raise InputError(
            f"--host {arguments.host} lets other machines in, so it needs {' and '.join(missing)}; "
            "or leave --host out and reach it through ssh -L"
        )


def _listen(host: str, port: int, *, any_port: bool) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)  # before the link is printed: whoever opens it at once only waits
    except OSError as error:
        if any_port:
            return _listen(host, 0, any_port=False)
        raise InputError(
            f"--host {host} --port {port}: {error.strerror}; choose another, or --port 0"
        ) from error
    return listener


def _hosts(host: str, allowed: list[str]) -> frozenset[str]:
    names = {"127.0.0.1", "localhost", "[::1]", *(name.lower() for name in allowed)}
    if host not in ("0.0.0.0", "::"):
        names.add(_shown(host).lower())
    else:
        names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
    return frozenset(names)


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _say(address: str, access: Access) -> None:
    if access.takes_token:
        text = f"dashboard: {address} (log in with the token)"
    else:
        # After the # so that it reaches no log, no proxy and no other site.
        text = f"dashboard: {address}/login#{access.new_link()} (this link works once)"
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
