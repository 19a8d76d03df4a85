"""The far end of a point-to-point link (linux/if_tun.h), which is this program. Run by path in a
namespace:

    tun.py NAME HEX TARGET      make the link, send the IPv6 packet every now and then, until a
                                neighbour advertisement for TARGET comes; print that in hex
"""

import fcntl
import ipaddress
import os
import select
import struct
import subprocess
import sys

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x1, 0x1000
PAUSE = 0.1


def main(name: str, packet: str, target: str) -> None:
    """Do it."""
    end = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH14x", name.encode(), IFF_TUN | IFF_NO_PI))
    subprocess.run(["ip", "link", "set", name, "up"], check=True)
    print("ready", flush=True)
    wanted = ipaddress.IPv6Address(target).packed
    while True:
        os.write(end, bytes.fromhex(packet))
        if select.select([end], [], [], PAUSE)[0]:
            data = os.read(end, 2048)
            if data[6] == 58 and data[40] == 136 and data[48:64] == wanted:
                print(data.hex(), flush=True)
                return


if __name__ == "__main__":
    main(*sys.argv[1:])
