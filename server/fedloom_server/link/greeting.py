"""What the coordinator asks of a device's first message."""

from typing import Any

from fedloom_client.frames import kind_of
from fedloom_client.wire import MAX_EXAMPLES, PROTOCOL, check_text
from fedloom_edge.errors import LinkError
from fedloom_protos.v1 import link_pb2 as pb


def check_hello(message: Any, device: str) -> pb.Hello:
    """The first message of a stream, if it is a hello that the certificate's holder may say.

    Raises:
        LinkError: it is not; the message names the rule.
    """
    if kind_of(message) != "hello":
        raise LinkError("protocol: the first message is no hello")
    hello: pb.Hello = message.hello
    if hello.protocol != PROTOCOL:
        raise LinkError(
            f"version: the device speaks protocol {hello.protocol}, this coordinator {PROTOCOL}; "
            "install the same fedloom on both"
        )
    if hello.device != device:
        raise LinkError(
            f"identity: the device calls itself {hello.device[:63]!r}, its certificate says {device}"
        )
    texts = {
        "version": (hello.version, 64),
        "task": (hello.task, 64),
        "trainer": (hello.trainer, 64),
        "board": (hello.board.model, 128),
        "machine": (hello.board.machine, 32),
        "system": (hello.board.system, 128),
    }
    for rule, (text, most) in texts.items():
        check_text(rule, text, most)
    if len(hello.finished) > 64 or max(hello.examples, hello.validation) > MAX_EXAMPLES:
        raise LinkError("hello: more finished works or examples than can be")
    return hello


def check_task(hello: pb.Hello, task: str, digest: bytes) -> None:
    """See that the device has the run's task, in the same version where `digest` tells.

    Raises:
        LinkError: it has not.
    """
    if hello.task != task:
        raise LinkError(
            f"task: the device has {hello.task!r}, this run is {task!r}; set task in the device's device.toml"
        )
    if digest and hello.task_digest != digest:
        raise LinkError(f"task: the device's {hello.task!r} is another version; install the same on both")
