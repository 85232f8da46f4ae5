"""A wire between two network namespaces that loses packets: `lossy.py NAMESPACE SHARE` (needs root).

Two TUN devices, one on each side (10.99.0.1 outside, 10.99.0.2 inside), and this process in between. It
says `ready`, and then obeys lines on its input: a new share of packets to lose, from 0 to 1.
"""

import ctypes
import fcntl
import os
import random
import select
import struct
import subprocess
import sys
from pathlib import Path


def tun(name: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(descriptor, 0x400454CA, struct.pack("16sH", name.encode(), 0x0001 | 0x1000))  # TUN, no header
    return descriptor


def configure(name: str, address: str) -> None:
    subprocess.run(["ip", "addr", "add", f"{address}/24", "dev", name], check=True)
    subprocess.run(["ip", "link", "set", name, "up"], check=True)


def main() -> None:
    namespace, share = sys.argv[1], float(sys.argv[2])
    name = f"fl{os.getpid() % 100000}"
    outside = tun(name)
    configure(name, "10.99.0.1")
    with Path(f"/var/run/netns/{namespace}").open() as handle:
        if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), 0x40000000) != 0:
            raise OSError(ctypes.get_errno(), "setns")
    inside = tun("inside")
    configure("inside", "10.99.0.2")
    chance = random.Random(0)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        for source in select.select([outside, inside, sys.stdin], [], [])[0]:
            if source is sys.stdin:
                line = sys.stdin.readline()
                if not line:
                    return
                share = float(line)
            else:
                packet = os.read(source, 65536)
                if chance.random() >= share:
                    os.write(inside if source is outside else outside, packet)


if __name__ == "__main__":
    main()
