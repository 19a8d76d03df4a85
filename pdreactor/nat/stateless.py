"""Mode stateless: addresses are rewritten packet by packet, without conntrack. Pure.

                 before conntrack (-310)                        after everything (310)
    from outside   "inward": daddr external -> internal
    from inside    "inward": the same, and the packet         "guard", marked: saddr internal ->
                   is marked (hairpin, RFC 6296 section 4)      external, mark cleared
    to the uplink                                              "guard": saddr internal -> external

The last step is in the guard's own chain, before what it drops: each further chain costs each
packet time.

So conntrack and every filter see internal addresses only, in both directions, and a hairpin is one
flow from internal to internal. The router's own packets go by "local-out" (a route chain: a
rewritten destination is routed anew), answers to it by "local-in".

A verdict map leads from the address to the chain that rewrites it. nft corrects checksums for
"ip6 saddr set" and "ip6 daddr set" (nft_payload.c, NFT_PAYLOAD_L4CSUM_PSEUDOHDR).

An ICMPv6 error quotes a packet, and its addresses have to be rewritten as well. These writes are
raw, and the checksum does not follow. What they change the sum by is known, though: the difference
of the two prefixes. So that is written, raw, into two bytes of the ICMPv6 header that are always
zero, and then these are set to zero in a way that corrects the checksum: "icmpv6 mtu set". That nft
allows for packet-too-big only (type 2), so other errors are disguised as one meanwhile. The two
bytes are the upper half of the MTU (2) and the pointer (4), and of types 1 and 3 the lower half of
what is unused there: the upper one may have a length (RFC 4884 section 4).
"""

from collections.abc import Callable
from ipaddress import IPv6Network

from .. import marks
from ..model import Lane, Nat, Pair, Stamp
from ..prefix import GLOBAL_UNICAST, compact
from .table import SLOT, Draft, Hook, Rule, Rules, named, outside, stamped, targets

CHAINS: dict[str, Hook] = {
    "inward": ("filter", "prerouting", -310),
    "local-out": ("route", "output", -310),
    "local-in": ("filter", "input", 300),
}
ERRORS = "icmpv6 type 1-4"
LOW, HIGH = 0xFFFF0000, 0x0000FFFF
WORD = 32
"""Bits that the kernel compares without a call (nft_payload_fast_eval, nft_cmp_fast_eval)."""


def _disguised(number: int, chain: str) -> tuple[Rule, ...]:
    return (Rule("disguise", f"@th,0,8 set 2 jump {chain}"),
            Rule("as it was", f"@th,0,8 set {number}"))


FIXED: Rules = {
    "clear-low": (Rule("correct the checksum", "icmpv6 type packet-too-big icmpv6 mtu set "
                       f"icmpv6 mtu & {LOW:#010x}"),),
    "clear-high": (Rule("correct the checksum", "icmpv6 type packet-too-big icmpv6 mtu set "
                        f"icmpv6 mtu & {HIGH:#010x}"),),
    "unreachable": _disguised(1, "clear-low"),
    "exceeded": _disguised(3, "clear-low"),
    "problem": _disguised(4, "clear-high"),
    "settle": (Rule("by type", "@th,0,8 vmap { 1 : goto unreachable, 2 : goto clear-high, "
                    "3 : goto exceeded, 4 : goto problem }"),),
}
"""Chains that are the same for every translation, those first that others go to."""


def render(draft: Draft, nat: Nat) -> None:
    """The rules of all lanes of this mode."""
    lanes = [lane for lane in nat.lanes if lane.mode == "stateless"]
    _pass_by(draft, "inward", [p for lane in lanes for p in (*lane.inbound, *lane.hairpin)])
    _pass_by(draft, "local-out", [p for lane in lanes for p in lane.hairpin])
    for lane in lanes:
        _translate(draft, lane)
    around = [lane for lane in lanes if lane.hairpin]
    for lane in around:
        _turn(draft, nat, lane)
    for uplink in dict.fromkeys(lane.uplink for lane in around):
        _home(draft, nat, [lane for lane in lanes if lane.uplink == uplink])


def _pass_by(draft: Draft, chain: str, pairs: list[Pair]) -> None:
    """Most packets are for other destinations: one look, before all others, and where one word of
    the address tells already, at that first (the kernel does this in the least time)."""
    there = compact(external for external, _ in pairs)
    if not there:
        return
    looks = [str(there[0]) if len(there) == 1 else draft.set(f"any-{chain}", there)]
    words = {str(net.supernet(new_prefix=WORD)) if net.prefixlen > WORD else "" for net in there}
    if len(words) == 1:
        looks[:0] = filter(None, words)
    draft.rules[chain][:0] = [Rule("all others", f"ip6 daddr != {one} return") for one in looks]


def _translate(draft: Draft, lane: Lane) -> None:
    if lane.outbound:
        leaving, name = f'oifname "{lane.interface}" rt ipsec missing', named(lane)
        if len(lane.outbound) == 1:  # as the maps below would do it, in less time
            ((internal, _),) = lane.outbound
            (rewrite,) = _rewriting("saddr")(lane.outbound[0])
            draft.rule("guard", f"outbound {lane.uplink}", f"{leaving} meta l4proto != ipv6-icmp "
                       f"ip6 saddr {internal} {rewrite} return")
        draft.rule("guard", f"errors outbound {lane.uplink}",
                   f"{leaving} {_quoted(draft, name, lane.outbound)}")
        draft.rule("guard", f"outbound {lane.uplink}",
                   f"{leaving} {_send(draft, name, lane.outbound)}")
    if lane.inbound:
        there = targets(draft, lane, f"toward-{named(lane)}", lane.inbound)
        _redirect(draft, "inward", f"inbound {lane.uplink}",
                  f'iifname "{lane.interface}" ip6 daddr {there}', named(lane), lane.inbound)


def _turn(draft: Draft, nat: Nat, lane: Lane) -> None:
    """Internal hosts, and the router, by their external addresses."""
    there = targets(draft, lane, f"around-{named(lane)}", lane.hairpin)
    mark, name = stamped(nat, "meta mark", _stamp(lane)), f"{named(lane)}-turn"
    for chain, match in (("inward", f"iifname != {outside(nat)} ip6 daddr {there}"),
                         ("local-out", f"ip6 daddr {there}")):
        _redirect(draft, chain, f"hairpin {lane.uplink}", match, name, lane.hairpin, f"{mark} ")


def _home(draft: Draft, nat: Nat, lanes: list[Lane]) -> None:
    """The one who asks is seen with the external address that it has now. Internal hosts that talk
    to a global address of the router are seen by their external address as well: nothing tells
    their answers from their questions."""
    uplink, name = lanes[0].uplink, f"{lanes[0].uplink}-home"
    now = tuple(pair for lane in lanes for pair in lane.outbound)
    own = now or tuple((to, key) for lane in lanes for key, to in lane.hairpin)
    marked = f"meta mark & {nat.mask:#010x} == {marks.pack(_stamp(lanes[0]), nat.mask):#010x}"
    clear = f"meta mark set meta mark & {~nat.mask & 0xFFFFFFFF:#010x} "
    inside = f"iifname != {outside(nat)} ip6 daddr {GLOBAL_UNICAST}"
    home = f"oifname != {outside(nat)} {marked} rt ipsec missing"
    for chain, match, then in (("guard", home, clear),
                               ("local-in", marked, clear), ("local-in", inside, "")):
        draft.rule(chain, f"errors home {uplink}", f"{match} {_quoted(draft, name, own)}")
        draft.rule(chain, f"home {uplink}", f"{match} {then}{_send(draft, name, own)}")


def _stamp(lane: Lane) -> Stamp:
    """What marks a packet on its way around: its uplink. All prefixes of that are alike here."""
    return Stamp(lane.stamp.uplink, 0, True)


def _redirect(draft: Draft, chain: str, purpose: str, match: str, name: str,
              pairs: tuple[Pair, ...], then: str = "") -> None:
    draft.rule(chain, f"own addresses {purpose}", f"{match} fib daddr type local return")
    draft.rule(chain, f"errors {purpose}", f"{match} {_quoting(draft, name, pairs)}")
    draft.rule(chain, purpose, f"{match} {then}{_take(draft, name, pairs)}")


# ---- verdict maps, and the chains they lead to ---------------------------------------------------


def _send(draft: Draft, name: str, pairs: tuple[Pair, ...]) -> str:
    return f"ip6 saddr vmap {_leading(draft, f'send-{name}', pairs, 'goto', _rewriting('saddr'))}"


def _take(draft: Draft, name: str, pairs: tuple[Pair, ...]) -> str:
    return f"ip6 daddr vmap {_leading(draft, f'take-{name}', pairs, 'goto', _rewriting('daddr'))}"


def _quoted(draft: Draft, name: str, pairs: tuple[Pair, ...]) -> str:
    """For an error on its way out: the packet was on its way in."""
    reference = _leading(draft, f"quoted-{name}", pairs, "jump", _rewriting_quote(256))
    return f"{ERRORS} @th,256,128 vmap {reference}"


def _quoting(draft: Draft, name: str, pairs: tuple[Pair, ...]) -> str:
    """For an error on its way in: the packet was on its way out."""
    reference = _leading(draft, f"quoting-{name}", pairs, "jump", _rewriting_quote(128))
    return f"{ERRORS} @th,128,128 vmap {reference}"


def _leading(draft: Draft, name: str, pairs: tuple[Pair, ...], verb: str,
             texts: Callable[[Pair], tuple[str, ...]]) -> str:
    kind = name.partition("-")[0]
    return draft.elements(name, frozenset(
        f"{draft.text(pair[0])} : {verb} {_branch(draft, kind, pair, texts)}" for pair in pairs))


def _branch(draft: Draft, kind: str, pair: Pair, texts: Callable[[Pair], tuple[str, ...]]) -> str:
    """The chain that rewrites a pair; its name says which one."""
    name = f"{kind}-{_digits(pair[0])}-{_digits(pair[1])}.{pair[0].prefixlen}"
    known = draft.branches.get(name)
    if known:
        return f"{name}{SLOT}"
    return draft.branch(name, f"{draft.text(pair[0])} : {draft.text(pair[1])}", *texts(pair))


def _digits(network: IPv6Network) -> str:
    return f"{int(network.network_address):032x}".rstrip("0") or "0"


def _rewriting(field: str) -> Callable[[Pair], tuple[str, ...]]:
    def texts(pair: Pair) -> tuple[str, ...]:
        to = pair[1]
        keep = "" if to.prefixlen == 128 else f"ip6 {field} & {to.hostmask} | "
        return (f"ip6 {field} set {keep}{to.network_address}",)

    return texts


def _rewriting_quote(offset: int) -> Callable[[Pair], tuple[str, ...]]:
    def texts(pair: Pair) -> tuple[str, ...]:
        field, host = f"@th,{offset},128", (1 << 128 - pair[1].prefixlen) - 1
        keep = f"{field} & {host:#034x} | " if host else ""
        write = f"{field} set {keep}{int(pair[1].network_address):#034x}"
        difference = (_sum(pair[0]) - _sum(pair[1])) % 0xFFFF
        if not difference:
            return (write,)
        # No "{ 2, 4 }": the kernel looks through all sets of a table for each one that it makes.
        return (write, f"@th,0,8 & 1 == 0 @th,32,16 set {difference:#06x} goto settle",
                f"@th,0,8 & 1 == 1 @th,48,16 set {difference:#06x} goto settle")

    return texts


def _sum(network: IPv6Network) -> int:
    """The sum of the address's 16-bit words (RFC 1071): of two networks of the same length it
    differs by what a change from one to the other does to a checksum."""
    address = int(network.network_address)
    return sum(address >> shift & 0xFFFF for shift in range(0, 128, 16))
