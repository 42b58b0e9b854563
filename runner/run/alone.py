"""Carries the rows of a run in this process."""

from __future__ import annotations

from runner.asking import Looker
from runner.crew import Crew
from runner.gatekeeper import keeper_of
from runner.lineup import Lineup
from runner.live import Live
from runner.pipeline import workers_for
from runner.relay import Relay
from runner.rig import follower_of, limit_of, pardoned_in, sink_of, update_of
from runner.run.session import Session
from runner.steering import helm, levers_of


async def carry_alone(session: Session) -> None:
    """Send what is left. Ends early with the reason in the stop; raises as `Relay.carry` does."""
    opened, asker, record, index = session.opened, session.asker, session.record, session.index
    clocks, stop, waits, rows = asker.clocks, asker.stop, session.waits, opened.checked.rows
    sink = sink_of(opened, record, stop, limit_of(opened), index.settled)
    lineup = Lineup(
        opened,
        index,
        clocks=clocks,
        ended=lambda: stop.reason is not None,
        tell=record.tell,
    )
    live = Live(
        rows=rows,
        settled_before=index.succeeded + index.failed,
        tally=sink.tally,
        turnstile=asker.turnstile,
        committer=record.committer,
        clock=clocks.steady,
        waits=waits,
        budget=lineup.budget,
    )
    session.show(live)
    asking = asker.asking(opened.job, opened.tokens, tell=record.tell, witness=session.witness)
    async with asking as exchanger:
        update = update_of(
            opened,
            exchanger,
            record,
            turnstile=asker.turnstile,
            clocks=clocks,
            budgeted=lineup.budget is not None,
        )
        follower = follower_of(
            opened,
            exchanger,
            record,
            sink,
            update,
            turnstile=asker.turnstile,
            stop=stop,
            clocks=clocks,
            budget=lineup.budget,
        )
        keeper = keeper_of(
            opened,
            Looker(exchanger, opened.job).look,
            record=record,
            waits=waits,
            stop=stop,
            turnstile=asker.turnstile,
            clocks=clocks,
            pardoned=pardoned_in(opened),
            decide=session.decide,
        )
        crew = Crew(workers_for(concurrency=opened.settings.concurrency, rows=rows))
        relay = Relay(
            opened=opened,
            index=index,
            line_up=lineup.line_up,
            update=update,
            follower=follower,
            sink=sink,
            record=record,
            stop=stop,
            waits=waits,
            keeper=keeper,
            crew=crew,
            turnstile=asker.turnstile,
            wall_clock=clocks.wall,
        )
        async with helm(
            opened,
            asker,
            live=live,
            waits=waits,
            levers=levers_of(asker, sink, lineup.budget, crew, rows=rows),
            drain=session.drain,
            approve=keeper.approve,
            tell=record.tell,
        ):
            await relay.carry(session.began)
