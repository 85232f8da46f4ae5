"""A device that says what a test tells it to."""

import grpc

from fedloom_client.wire import PROTOCOL
from fedloom_protos.v1 import link_pb2 as pb
from fedloom_protos.v1.link_pb2_grpc import LinkStub

from .conftest import DIGEST

BOARD = pb.Board(model="test", machine="x86_64", system="Linux", cores=1, memory_bytes=1 << 30)


def hello(name="a", **changes):
    values = {
        "protocol": PROTOCOL,
        "version": "0",
        "task": "small",
        "task_digest": DIGEST,
        "trainer": "torch",
    }
    return pb.FromDevice(hello=pb.Hello(**{"device": name, "board": BOARD, **values, **changes}))


class Raw:
    """A device that says what a test tells it to."""

    def __init__(self, site, credentials):
        import queue

        self.outgoing = queue.SimpleQueue()
        # A window that does not grow: what is not read fills it soon.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)]
        self.channel = grpc.secure_channel(f"127.0.0.1:{site.port}", credentials, options)
        self.call = LinkStub(self.channel).Connect(iter(self.outgoing.get, None))

    def say(self, *messages):
        for message in messages:
            self.outgoing.put(message)
        return self

    def next(self, kind):
        for message in self.call:
            if message.WhichOneof("body") == kind:
                return getattr(message, kind)
        raise AssertionError(f"no {kind}")

    def refusal(self):
        """(status, reason) with which the coordinator ends the stream."""
        try:
            for _ in self.call:
                pass
        except grpc.RpcError:
            pass
        self.outgoing.put(None)
        self.channel.close()
        return self.call.code().name, self.call.details()
