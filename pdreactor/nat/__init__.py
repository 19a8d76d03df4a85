"""The translation in the firewall. The backend is chosen here and nowhere else.

    backend            nftables table                      chains of ip6tables
    auto, nftables     translation and guard               none; taken away where we had some
    iptables[-legacy]  guard                               translation
    the same, on a     (nothing)                           translation, and what FORWARD and
    kernel without nf_tables                               OUTPUT can do of the guard

Each of the two is a ``Part``. A part translates before another one stops to: in netfilter the first
to translate a flow wins, and both would do it alike.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from ..errors import BackendMissing, KernelError, NoNftables, PdreactorError, PermissionDenied
from ..model import Config, Holding, Nat


class Part:
    """One program's share of the translation, during one pass. ``enter`` imports the room,
    nftables.py or iptables.py: both have the same functions; ``connect`` opens their way to the
    kernel."""

    def __init__(self, enter: Callable[[], Any], connect: Callable[[], Any], wanted: Any) -> None:
        self._enter, self._connect, self.wanted = enter, connect, wanted
        self.room: Any = None
        self.seam: Any = None
        self.observed: Any = None
        self.change: Any = None

    def plan(self) -> "Part":
        """Look, and see what is to be done: ``change`` is None when nothing is."""
        self.room = self.room or self._enter()
        self.seam = self.seam or self._connect()
        self.observed = self.room.observe(self.seam, self.wanted)
        self.change = self.room.plan(self.wanted, self.observed)
        return self

    def apply(self) -> list[str]:
        """Make the change; returns it for people, a line each."""
        if self.change is None:
            return []
        self.room.apply(self.seam, self.change)
        lines: list[str] = self.room.words(self.change)
        return lines

    def finish(self) -> None:
        """Take away what the change left over, and look whether all is as desired."""
        if self.change is not None:
            self.room.clean(self.seam, self.change)

    @property
    def words(self) -> list[str]:
        return self.room.words(self.change) if self.change is not None else []

    @property
    def exposed(self) -> bool:
        """True when before the change this part did not keep packets from leaving as they are."""
        return self.change is not None and bool(self.room.exposed(self.change))

    @property
    def translated(self) -> dict[str, frozenset[str]]:
        found: dict[str, frozenset[str]] = self.room.translated(self.observed)
        return found


def holding(config: Config) -> Holding | None:
    """The chains of ip6tables that this configuration translates with; None with nftables."""
    if config.backend in ("auto", "nftables"):
        return None
    variant = "legacy"
    if config.backend == "iptables":
        from ..kernel.ip6tables import variant as of_this_machine

        variant = of_this_machine()
    modes = tuple(sorted({translation.mode for translation in config.translations}))
    return Holding(variant, config.dnat_chain, config.snat_chain, config.jumps, modes)


def tables(config: Config) -> tuple[frozenset[str], bool]:
    """(names of nftables' ip6 tables that have rules of ours, whether the kernel tells of changes
    in all that translates: of those in chains of ip6tables-legacy it does not)."""
    try:
        here = holding(config)
    except BackendMissing:
        here = None
    if here is None:
        return frozenset({"pdreactor"}), True
    if here.variant == "legacy":
        return frozenset({"pdreactor"}), False
    return frozenset({"pdreactor", "raw", "mangle", "nat", "filter"}), True


def begin(config: Config) -> Any:
    """Start what takes a while, for a pass that is likely to change something: the seam of
    ip6tables, which ``Firewall`` takes. None where there is nothing to start."""
    try:
        here = holding(config)
        if here is None or here.variant == "legacy":
            return None
        from ..kernel.ip6tables import Ip6tables

        tables = {"netmap": ("nat",), "rfc6296": ("raw", "mangle")}
        return Ip6tables([table for mode in here.modes for table in tables[mode]], writing=True)
    except BackendMissing:
        return None  # it is said where it is needed


class Firewall:
    """All parts of one pass. ``held`` has the chains that earlier configurations may have left."""

    def __init__(self, config: Config, nat: Nat, held: Collection[Holding],
                 begun: Any = None) -> None:
        self.here: Holding | None = None
        self._missing: BackendMissing | None = None
        try:
            self.here = holding(config)
        except BackendMissing as exc:
            self._missing = exc
        self.exposed = False
        self._guarded = nat.guard
        self.notes: tuple[str, ...] = ()
        self.left: tuple[Holding, ...] = ()  # chains of earlier configurations that stay
        guard = nat._replace(lanes=(), modes=frozenset())
        self._table = Part(_nftables, _nft, guard if self.here or self._missing else nat)
        earlier = frozenset(mode for one in held if _same(one, self.here) for mode in one.modes)
        self._chains = _chains(self.here, nat, earlier) if self.here else None
        if self._chains:
            self._chains.seam = begun
        self._parts: list[Part] = []
        self._old = [one for one in held if not _same(one, self.here)]

    def plan(self) -> Iterator[Part]:
        """The parts in the order in which they are to be applied. Where the chains of ip6tables
        stand they go first, and nftables is not even looked at before; a guard that does not stand
        goes before them."""
        for part in self._ordered():
            self._parts.append(part)
            yield part

    def _ordered(self) -> Iterator[Part]:
        if self._missing:
            yield self._noted(self._table.plan())  # the guard at least
            raise self._missing
        if self._chains is None or self.here is None:
            yield self._noted(self._table.plan())
            return
        if self.here.variant == "legacy" and not self._has_table():
            yield self._noted(self._chains.plan())
            return
        try:
            chains = self._chains.plan()
        except PdreactorError:
            yield self._table.plan()  # the guard at least
            raise
        if not chains.exposed:
            yield chains
            yield self._table.plan()
            return
        table = self._table.plan()
        self.exposed = table.exposed or not self._guarded
        yield from (table, chains) if table.exposed else (chains, table)

    def _noted(self, part: Part) -> Part:
        self.exposed = part.exposed
        return part

    def _has_table(self) -> bool:
        """False on a kernel without nf_tables: then the chains guard, as far as they can."""
        assert self._chains is not None
        try:
            if self._table.plan().observed is not None or self._table.seam.has_ip6():
                return True
        except NoNftables:
            pass
        self.notes += ("this kernel has no nf_tables for IPv6: ip6tables guards in FORWARD and "
                       "OUTPUT, which cannot see whether a new flow will be translated",)
        self._chains.wanted = self._chains.wanted._replace(guard=True)
        return False

    def finish(self) -> list[str]:
        """What comes after the switch: left-overs, and the chains of earlier configurations."""
        if self._chains and hasattr(self._chains.seam, "close"):
            self._chains.seam.close()
        for part in self._parts:
            part.finish()
        return [line for old in self.old() for line in _taken_away(old)]

    def script(self) -> str | None:
        """The nftables table of this pass as text for nft; None where there is none."""
        if self._table not in self._parts:
            return None
        text: str = self._table.room.script(self._table.wanted)
        return text

    def check(self, script: str) -> None:
        """Raise KernelError when the kernel would not take the script."""
        self._table.room.check(self._table.seam, script)

    def old(self) -> list[Part]:
        """What is still there of earlier configurations, planned. What cannot be looked at for want
        of a program is left for later, with a note."""
        found = []
        for one in self._old:
            try:
                found.append(_chains(one, None).plan())
            except BackendMissing as exc:
                self.left += (one,)
                self.notes += (f"chains {one.dnat} and {one.snat} of ip6tables ({one.variant}) may "
                               f"still be there and cannot be taken away: {exc}",)
        return [part for part in found if part.change]


def notes(config: Config) -> tuple[str, ...]:
    """What users of this configuration should know about this machine. Raises BackendMissing."""
    here = holding(config)
    if here is None:
        return _beside(config)
    if here.variant == "legacy":
        return ()
    from ..kernel.ip6tables import legacy_tables

    tables = " and ".join(legacy_tables())
    return (f"ip6tables-legacy has tables too ({tables}): rules of both variants are in force; "
            f"look with ip6tables-legacy-save, and keep to one",) if tables else ()


def stopped(nat: Nat) -> dict[str, int]:
    """{interface: packets that the guard has stopped there, since our table was made}."""
    found: dict[str, int] = _nftables().stopped(_nft(), nat)
    return found


def _beside(config: Config) -> tuple[str, ...]:
    if not any(translation.mode == "stateless" for translation in config.translations):
        return ()
    try:
        _nftables().refuse_flowtables(_nft())
    except PermissionDenied:
        pass  # not root, who only has the configuration checked
    return ()


def remove(config: Config | None, held: Iterable[Holding]) -> tuple[Holding, ...]:
    """Take everything of ours out of the firewall; returns which chains could not be, for want of
    a program. Those of the default and of the configured names are looked for although nobody
    remembers them."""
    nft = _nft()
    try:
        nft.run(_nftables().remove(), "remove table ip6 pdreactor")
    except (KernelError, NoNftables):
        if nft.has_ip6():
            raise
    left = []
    for one in dict.fromkeys((*held, *_perhaps(config))):
        try:
            _taken_away(_chains(one, None).plan())
        except (BackendMissing, KernelError) as exc:
            if one in held and isinstance(exc, KernelError):
                raise
            left += [one] if one in held else []
    return tuple(left)


def _perhaps(config: Config | None) -> list[Holding]:
    from ..kernel.ip6tables import legacy_tables

    variants = ("nf_tables", *(["legacy"] if legacy_tables() else []))
    found = [Holding(variant, "pdreactor_dnat", "pdreactor_snat", True) for variant in variants]
    if config and config.backend not in ("auto", "nftables"):
        names = (config.dnat_chain, config.snat_chain, config.jumps)
        found += [Holding(variant, *names) for variant in variants]
    return found


def _taken_away(part: Part) -> list[str]:
    lines = part.apply()
    part.finish()
    return lines


def _same(one: Holding, other: Holding | None) -> bool:
    return other is not None and one[:3] == other[:3]


def _nftables() -> Any:
    from . import nftables

    return nftables


def _nft() -> Any:
    from ..kernel.nft import Nft

    return Nft()


def _chains(held: Holding, nat: Nat | None, earlier: frozenset[str] = frozenset()) -> Part:
    from . import iptables

    wanted = iptables.Wanted(nat, held, earlier=earlier)
    return Part(lambda: iptables, lambda: _xtables(held.variant), wanted)


def _xtables(variant: str) -> Any:
    if variant == "legacy":
        from ..kernel.libiptc import Libiptc

        return Libiptc()
    from ..kernel.ip6tables import Ip6tables

    return Ip6tables()
