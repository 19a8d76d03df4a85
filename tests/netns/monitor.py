"""What the kernel announces to those who listen: nothing, when nothing was written."""

import re
import time
from typing import NamedTuple

from tests.lab import Lab


class Kind(NamedTuple):
    """A monitor, and how to make it say a name that we know."""

    watch: str
    add: str
    remove: str
    shown: str


NFT = Kind(
    "nft monitor",
    "nft add table ip6 lab_mark_{}",
    "nft delete table ip6 lab_mark_{}",
    "add table ip6 lab_mark_{}\n",
)
IP = Kind(
    "ip -6 monitor route rule",
    "ip -6 route add blackhole fd00:0:0:{}::/64 table 9999",
    "ip -6 route del blackhole fd00:0:0:{}::/64 table 9999",
    "fd00:0:0:{}::/64",
)
ADDRESSES = IP._replace(watch="ip -6 monitor address route rule")


class Monitor:
    """Hears what is written on the router from the moment this is made."""

    def __init__(self, lab: Lab, kind: Kind) -> None:
        self.lab, self.kind, self.number = lab, kind, 0
        self.process = lab.start("router", kind.watch.split())
        lab.wait(self._hears, 5, f"{kind.watch} to listen")
        self.begin = self._mark()

    def said(self) -> str:
        """What it heard; ends it."""
        end = self._mark()
        heard = self.process.output()
        self.process.stop()
        for number in range(1, self.number + 1):
            self.lab.run("router", self.kind.remove.format(number).split())
        between = heard[heard.index(self.begin) + len(self.begin) : heard.rindex(end)]
        lines = between.partition("(nft)\n" if self.kind is NFT else "\n")[2].splitlines()
        return "\n".join(line for line in lines if not re.fullmatch("[a-z]+ ", line))

    def _hears(self) -> bool:
        """True when it has heard a mark. The next one waits: a monitor that reads large tables
        first begins anew whenever something changes meanwhile."""
        self._make()
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            heard = self.process.output()
            if any(self.kind.shown.format(n) in heard for n in range(1, self.number + 1)):
                return True
            time.sleep(0.005)
        return False

    def _mark(self) -> str:
        """Make a mark that it hears."""
        mark = self._make()
        self.process.wait_output(mark)
        return mark

    def _make(self) -> str:
        """Write something harmless; what the monitor will say."""
        self.number += 1
        self.lab.run("router", self.kind.add.format(self.number).split())
        return self.kind.shown.format(self.number)
