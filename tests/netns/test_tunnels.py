"""Tunnels where the kernel has none; all else of them is in tests/guest."""

import pytest

from tests.lab import Lab

from .pd import NEEDS_ROOT, OLD, Router, config

pytestmark = NEEDS_ROOT
TUNNEL = """
[uplink.he]
interface = "he6"
prefix = "2001:db8:77::/48"

[tunnel.he6]
remote = "192.0.2.1"
addresses = ["2001:db8:a::2/64"]
default = true
"""


def test_a_kernel_without_sit_says_so_and_the_rest_works(lab: Lab) -> None:
    probe = ["ip", "link", "add", "probe", "type", "sit", "remote", "192.0.2.9"]
    if lab.run("router", probe, check=False).returncode == 0:
        pytest.skip("this kernel has sit")
    router = Router(lab, config(rest=TUNNEL))
    done = router.pd("set", "wan", OLD, code=70)
    said = "cannot add the link he6 of kind sit: Operation not supported by this kernel"
    assert done.stderr.count("\n") == 2 and said in done.stderr.splitlines()[-1], done.stderr
    assert router.prefixes() == {OLD: "current"}
    assert "in place" in router.pd("status", code=1).stdout
