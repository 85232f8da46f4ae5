"""What a checkpoint holds of a run: everything that its future depends on, arrays by their hash."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fedloom_edge.errors import RunError
from fedloom_server.guard.norms import RoundNorms
from fedloom_server.recovery.strategy_state import restore_state, state_of
from fedloom_server.rounds.roster import Member
from fedloom_server.store.rows import ClientRow
from fedloom_server.store.run_store import RunStore

if TYPE_CHECKING:
    from fedloom_server.rounds.federation import Federation


def whole_state(run: "Federation") -> dict[str, Any]:
    """Everything that the future of the run depends on, arrays by their hash."""
    run.strategy_state = state_of(run.strategy)
    put = run.store.put_arrays
    return {
        "arrays": put(run.arrays),
        "constants_arrays": put(run.constants) if run.constants else None,
        "strategy_arrays": put(run.strategy_state) if run.strategy_state else None,
        "best": run.best,
        "norms": [[norms.centre, norms.spread] for norms in run.past],
        "reputation": run.reputation.state(),
        **({"clock": run.clock.clock_state(put)} if run.clock is not None else {}),
    }


def take_over(run: "Federation", state: Mapping[str, Any]) -> None:
    """Put a run where it was when `whole_state` gave `state`."""
    get = run.store.get_arrays
    run.arrays = get(state["arrays"])
    run.constants = get(digest) if (digest := state["constants_arrays"]) else {}
    run.strategy_state = get(digest) if (digest := state["strategy_arrays"]) else {}
    restore_state(run.strategy, run.strategy_state)
    run.best = (state["best"][0], state["best"][1]) if state["best"] else None
    run.past = [RoundNorms(*values) for values in state["norms"]]
    run.reputation.restore(state["reputation"])
    if run.clock is not None:
        run.clock.restore_clock(state["clock"], get, run.constants)


def recognise(store: RunStore, row: ClientRow, member: Member, *, may_grow: bool) -> None:
    """Compare a client with what it was; where its data `may_grow` it may have more.

    Raises:
        RunError: it is another, or has other data.
    """
    if (row.id, row.examples, row.validation) == (member.client, member.examples, member.validation):
        return
    grown = member.examples >= row.examples and member.validation >= row.validation
    if row.id != member.client or not (grown and may_grow):
        raise RunError(
            f"client {row.id} had {row.examples} examples when the run began and has "
            f"{member.examples} now; give it the data that it had"
        )
    with store.transaction():
        store.execute(
            "UPDATE client SET examples = ?, validation = ? WHERE id = ?",
            (member.examples, member.validation, row.id),
        )
        reason = f"its data has grown from {row.examples} to {member.examples} examples"
        store.event("warning", client=row.id, reason=reason)
