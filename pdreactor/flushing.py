"""``pdreactor flush``: everything of ours goes out of the kernel."""

from functools import partial

from . import include, state
from .errors import BackendMissing, PdreactorError, StateError
from .model import Config, State
from .nat import remove
from .reconciler import PASS_WAIT, update


def flush(config: Config, *, forget: bool) -> None:
    """Take everything of ours out of the kernel, and with ``forget`` the state too.

    Each step is tried, whatever becomes of the others; the first error is raised at the end.
    """
    errors: list[PdreactorError] = []
    with state.Lock(config.state_dir, "pass.lock", PASS_WAIT, shared=True):
        for step in (_flush_include, _flush_nat, _flush_routes, _flush_layout, _flush_flows,
                     *([] if forget else [_flush_state])):
            try:
                step(config)
            except PdreactorError as exc:
                errors.append(exc)
        if forget and not any(isinstance(exc, BackendMissing) for exc in errors):
            state.forget(config.state_dir)  # else what is left would be forgotten too
    if errors:
        raise errors[0]


def _flush_include(_config: Config) -> None:
    include.remove()


def _flush_nat(config: Config) -> None:
    held = _before(config).held
    left = remove(config, held)
    if left != held:
        update(config, lambda s: s._replace(held=left))
    if left:
        names = ", ".join(f"{one.dnat} and {one.snat} ({one.variant})" for one in left)
        raise BackendMissing(f"chains of ip6tables stay: {names}; install what pdreactor plan asks "
                             f"for, then flush again")


def _before(config: Config) -> State:
    try:
        return state.load(config.state_dir, keep=True)[0]
    except StateError:
        return State({})  # unreadable: the configuration's numbers and names have to do


def _flush_layout(config: Config) -> None:
    known = _before(config)
    if config.plans is None and known.traces is None:
        return
    from .layout.steps import flush

    flush(config, known, partial(update, config))


def _flush_routes(config: Config) -> None:
    from . import routing
    from .kernel.rtnl import Rtnl

    failed: list[PdreactorError] = []
    with Rtnl() as rtnl:
        protocols = {*_before(config).numbers[:1], config.protocol}
        observed = routing.observe(rtnl, *protocols)
        for protocol in protocols:
            routing.reconcile(rtnl, observed, (), (), protocol, failed)
    if failed:
        raise failed[0]


def _flush_flows(config: Config) -> None:
    from . import conntrack

    conntrack.remove_all(config.ct_mark_mask)


def _flush_state(config: Config) -> None:
    update(config, lambda s: s._replace(
        doomed=(), applied=(), exposed=False, numbers=(), modes=(), leading=(), left=(),
        tabled=()))
