"""A thin uplink."""

import contextlib
import math
import socket
import threading
import time


class ThinLine:
    """A TCP proxy to `port` that lets so many bytes a second up, and any down."""

    def __init__(self, port, rate):
        self.to, self.rate = port, rate
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                near = self.server.accept()[0]
                near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                far = socket.create_connection(("127.0.0.1", self.to))
                for source, sink, rate in ((near, far, self.rate), (far, near, math.inf)):
                    threading.Thread(target=self.pump, args=(source, sink, rate), daemon=True).start()

    def pump(self, source, sink, rate):
        with contextlib.suppress(OSError):
            while data := source.recv(2048):
                sink.sendall(data)
                time.sleep(len(data) / rate)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.server.close()
