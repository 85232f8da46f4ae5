"""Who may look: a one-time link, a token, and the cookie that either is changed for."""

import hashlib
import hmac
import os
import secrets
import time
from collections import deque
from pathlib import Path

from fedloom_edge.errors import InputError
from fedloom_edge.files import replacing

SESSION_SECONDS = 7 * 24 * 3600
LINK_SECONDS = 15 * 60
LOGINS, LOGIN_WINDOW = 5, 60.0
"""Wrong secrets that one address may try in so many seconds; everybody together four times as many."""
_EVERYBODY = 4
_SHORTEST_TOKEN = 16


class Access:
    """Checks secrets in constant time. Sessions are signed, so they outlive a restart of the server."""

    def __init__(self, key: bytes, token: str | None = None) -> None:
        self._key = key
        self._token = token
        self._link: tuple[str, float] | None = None
        self._wrong: dict[str, deque[float]] = {}

    def new_link(self) -> str:
        """A secret that works once, for LINK_SECONDS."""
        secret = secrets.token_urlsafe(24)
        self._link = (secret, time.monotonic() + LINK_SECONDS)
        return secret

    @property
    def takes_token(self) -> bool:
        """Whether there is a token to log in with."""
        return self._token is not None

    def wait_seconds(self, address: str) -> float:
        """How long an address must wait before it may try another secret; 0 if it need not."""
        now = time.monotonic()
        waits = [0.0]
        for who, most in ((address, LOGINS), ("", _EVERYBODY * LOGINS)):
            tried = self._wrong.setdefault(who, deque())
            while tried and now - tried[0] > LOGIN_WINDOW:
                tried.popleft()
            if len(tried) >= most:
                waits.append(LOGIN_WINDOW - (now - tried[0]))
        self._wrong = {who: tried for who, tried in self._wrong.items() if tried}
        return max(waits)

    def log_in(self, secret: str, address: str) -> str | None:
        """A session for a right secret; None, and a note of the address, for a wrong one."""
        if self._spend_link(secret):
            return self._sign("link")
        if self.is_token(secret):
            return self._sign("token")
        self.note_wrong(address)
        return None

    def note_wrong(self, address: str) -> None:
        """Remember that an address tried a wrong secret."""
        for who in (address, ""):
            self._wrong.setdefault(who, deque()).append(time.monotonic())

    def is_token(self, secret: str) -> bool:
        """Whether this is the token, for tools that send it with every request."""
        return self._token is not None and _same(secret, self._token)

    def who(self, session: str) -> str | None:
        """Whose session this is (`link` or `token`, and a short name); None if it is not valid now."""
        who, _, rest = session.partition(".")
        expires, _, signature = rest.partition(".")
        if not _same(signature, self._signature(f"{who}.{expires}")):
            return None
        return who if expires.isdecimal() and int(expires) > time.time() else None

    def _sign(self, way: str) -> str:
        body = f"{way}-{secrets.token_hex(2)}.{int(time.time()) + SESSION_SECONDS}"
        return f"{body}.{self._signature(body)}"

    def _signature(self, body: str) -> str:
        # The token is part of it: whoever changes the token ends every session that it gave.
        message = f"{body}.{self._token or ''}".encode()
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()

    def _spend_link(self, secret: str) -> bool:
        if self._link is None:
            return False
        right, until = self._link
        if not _same(secret, right) or time.monotonic() > until:
            return False
        self._link = None
        return True


def read_token(path: Path) -> str:
    """The token in a file that nobody else may read.

    Raises:
        InputError: it cannot be read, is too short, or others may read it.
    """
    try:
        token, mode = path.read_text().strip(), path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"--token-file {path}: {error}; make one with: (umask 077; openssl rand -hex 32 > {path})"
        ) from error
    if mode & 0o077:
        raise InputError(f"--token-file {path}: others may read it; chmod 600 {path}")
    if len(token) < _SHORTEST_TOKEN:
        raise InputError(f"--token-file {path}: the token needs at least {_SHORTEST_TOKEN} characters")
    return token


def session_key() -> bytes:
    """The key that signs this user's sessions, made when there is none, readable by the user alone."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    path = Path(base) / "fedloom" / "dashboard.key"
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with replacing(path) as temporary:
                temporary.chmod(0o600)
                temporary.write_bytes(secrets.token_bytes(32))
        return path.read_bytes()
    except OSError:
        return secrets.token_bytes(32)  # no home to write to: sessions end with this process


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())
