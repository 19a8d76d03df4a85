"""Judges of other people's routes and rules, and of those who configure them. Pure."""

from collections.abc import Iterator

from ..model import Config
from . import conf
from .facts import NOTE, WARNING, Facts, Finding, TheirRule
from .machine import tracked

PRIORITIES = 4
"""From ``priority`` on: see steering.py."""
KERNEL = 2
"""linux/rtnetlink.h RTPROT_KERNEL."""


def steered(config: Config) -> bool:
    """Whether there is source-based routing."""
    return any(one.table is not None for one in config.uplinks)


def tables(facts: Facts) -> Iterator[Finding]:
    """Numbers of tables that somebody else uses."""
    ours = {one.table: f"uplink.{one.name}.table" for one in facts.config.uplinks if one.table}
    for number, key in ours.items():
        fix = f"choose another number for {key} in {facts.config.path}, unless it is meant so"
        for one in facts.routes:
            if one.route.table == number and one.protocol != facts.config.protocol \
                    and one.route.destination.prefixlen == 0:
                yield Finding(WARNING, f"table {number} has a default route of somebody else "
                                       f"(metric {one.route.metric}, protocol {one.protocol})",
                              f"ip -6 route show table {number}", fix)
        for rule in _theirs(facts):
            if rule.rule.table == number:
                yield Finding(WARNING, f"a rule of somebody else leads to table {number} "
                                       f"(priority {rule.rule.priority})", "ip -6 rule", fix)


def rules(facts: Facts) -> Iterator[Finding]:
    """Rules of others between ours, before ours, or by our bits of the mark."""
    if not steered(facts.config):
        return
    first = facts.config.priority
    for one in _theirs(facts):
        rule = one.rule
        where = f"ip -6 rule, priority {rule.priority}"
        if first <= rule.priority < first + PRIORITIES:
            yield Finding(WARNING, "a rule of somebody else is at a priority of pdreactor's",
                          where, f"give it another one than {first} to {first + PRIORITIES - 1}, "
                                 f"or change routing.priority")
        elif 0 < rule.priority < first and _takes_all(facts.config, one):
            yield Finding(WARNING, "a rule of somebody else has the LAN's packets before "
                                   "pdreactor's rules do", where,
                          f"if that is not meant so: give it a priority above "
                          f"{first + PRIORITIES - 1} (wg-quick: Table = off and rules of your own)")
        if rule.mark[1] & facts.config.ct_mark_mask and not one.inverted \
                and tracked(facts.config) and not _leads_to_ours(facts.config, one):
            yield Finding(WARNING, f"a rule of somebody else looks at bits of the packet mark that "
                                   f"pdreactor sets (mask {rule.mark[1]:#x})", where,
                          f"give it a mask without {facts.config.ct_mark_mask:#010x}, or choose "
                          f"other bits for firewall.ct_mark_mask")


def _takes_all(config: Config, one: TheirRule) -> bool:
    """Whether it leads an internal prefix away, whatever the destination."""
    rule = one.rule
    if rule.suppress or rule.destination or rule.iif or (rule.mark[1] and not one.inverted):
        return False
    return rule.source is None or any(rule.source.overlaps(translation.internal)
                                      for translation in config.translations)


def _leads_to_ours(config: Config, one: TheirRule) -> bool:
    return one.rule.table in [uplink.table for uplink in config.uplinks]


def _theirs(facts: Facts) -> Iterator[TheirRule]:
    """Without those that the kernel makes: local, main, the one for VRFs."""
    for one in facts.rules:
        if one.protocol not in (facts.config.protocol, KERNEL):
            yield one


# ---- who else configures interfaces and routes ---------------------------------------------


def networkd(facts: Facts) -> Iterator[Finding]:
    """systemd-networkd removes rules and routes that it does not know (networkd.conf(5))."""
    if not facts.networkd:
        return
    for key in ("ManageForeignRoutingPolicyRules", "ManageForeignRoutes"):
        if steered(facts.config) and not conf.no(facts.foreign.get(key, "yes")):
            yield Finding(WARNING, "systemd-networkd removes rules and routes of others when it "
                                   "configures an interface", "/etc/systemd/networkd.conf",
                          f"write {key}=no into its section [Network], then systemctl restart "
                          f"systemd-networkd")
    yield from _beside(facts, facts.networkd, "systemd-networkd",
                       "write Unmanaged=yes into the section [Link] of its .network file, or "
                       "DHCP=no and IPv6AcceptRA=no into [Network]")


def network_manager(facts: Facts) -> Iterator[Finding]:
    """NetworkManager beside dhcpcd on one interface."""
    yield from _beside(facts, facts.network_manager, "NetworkManager",
                       "write unmanaged-devices=interface-name:NAME into the section [keyfile] of "
                       "/etc/NetworkManager/conf.d/uplink.conf, then nmcli general reload")


def _beside(facts: Facts, managed: tuple[str, ...], who: str, fix: str) -> Iterator[Finding]:
    for name in dict.fromkeys(one.interface for one in facts.config.uplinks):
        if name in managed and facts.options is not None:
            yield Finding(WARNING, f"{who} configures {name}, and dhcpcd may do so too", who,
                          fix.replace("NAME", name))


def timer(facts: Facts) -> Iterator[Finding]:
    """With noipv6rs nobody tells of another gateway (ROUTERADVERT comes from dhcpcd only)."""
    if facts.timer is not False or facts.watched or facts.options is None:
        return
    for one in facts.config.uplinks:
        if one.table is not None and any(
                option.name == "noipv6rs" for option in conf.concerning(
                    facts.options, one.interface)):
            yield Finding(NOTE, f"with noipv6rs dhcpcd does not tell when the gateway of "
                                f"{one.interface} changes", "/etc/dhcpcd.conf",
                          "systemctl enable --now pdreactor-watch.service, or "
                          "pdreactor-restore.timer")
            return


