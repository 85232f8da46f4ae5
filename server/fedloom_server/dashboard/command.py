"""Watch runs in a browser, live, from this machine alone; nothing is fetched from anywhere else.

DIR is a run's folder or one that holds runs; without it, runs/. The dashboard prints a link that works
once. It listens on this machine only unless --host says otherwise, which needs TLS and a token.
"""

import argparse
from pathlib import Path

PORT = 8642


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `fedloom dashboard`."""
    parser.add_argument("folders", nargs="*", type=Path, metavar="DIR", help="a run's folder, or one of runs")
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen on")
    parser.add_argument(
        "--port", type=int, default=PORT, metavar="N", help="port to listen on; 0 for a free one"
    )
    parser.add_argument("--any-port", action="store_true", help="take a free port where --port is taken")
    parser.add_argument("--until-stdin-closes", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--read-only", action="store_true", help="watch only: no pause, stop or exclude")
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="file with the token to log in with, mode 600"
    )
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="the server's certificate, PEM")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key, PEM")
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="another name under which browsers reach this server; may be repeated",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run `fedloom dashboard` until it is interrupted; returns the exit code."""
    from fedloom_server.dashboard.serve import serve

    return serve(arguments)
