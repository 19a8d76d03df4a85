"""Examples of contrib/examples that need no other link than any kernel has; those with tunnels are
in tests/guest."""

from tests.lab import SERVER, Lab

from .pd import NEEDS_ROOT, NEW, OLD, ROOT, A, Router, dhcp, reaches

pytestmark = NEEDS_ROOT


def test_dynamic_prefix(lab: Lab) -> None:
    """Host a reaches the server from its external address and is reached by it; after another
    prefix the same, and not by the old one any more."""
    router = Router(lab, (ROOT / "contrib/examples/dynamic-prefix.toml").read_text())
    for key in ("all.forwarding=0", "eth0.accept_ra=1"):
        router.run("sysctl", "-qw", f"net.ipv6.conf.{key}")
    lab.count_prefix(OLD, NEW)
    before = ""
    for prefix in (OLD, NEW):
        router.hook("RENEW6" if before else "BOUND6", dhcp(prefix, old=before))
        assert reaches(lab, "a", SERVER)
        assert reaches(lab, "isp", router.outside(A, prefix))
        before = prefix
    assert not reaches(lab, "isp", router.outside(A, OLD)) or router.prefixes()[OLD] == "superseded"
    assert lab.count().leaked == 0
    assert router.run("sysctl", "-n", "net.ipv6.conf.all.forwarding",
                      "net.ipv6.conf.eth0.accept_ra").split() == ["1", "2"]
    router.pd("plan")
