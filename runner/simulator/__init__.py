"""A Sync API on this machine, with faults, for demos, rehearsals and tests.

::

    async with Simulator(verify=checker, faults=Faults.mixed(0.1), seed=7) as simulator:
        simulator.seed(1_000, 50)
        ...  # talk to simulator.base_url
        simulator.snapshot(), simulator.audit

=============  ==========================================================================
``state``      the syncs, and how they change as time goes by
``seeding``    a plausible present state
``endpoints``  what a well-behaved service answers
``faults``     what can go wrong, and how often
``plan``       which request meets which fault
``limits``     token buckets and outages
``delivery``   puts an answer on the wire, whole or spoiled
``audit``      what was asked
``service``    judges a request, acts, and records it
``server``     the sockets, and the object that holds it all
``control``    a side door for a parent process
=============  ==========================================================================
"""

from __future__ import annotations

from runner.simulator.audit import AuditEntry
from runner.simulator.faults import (
    NOT_ACTED,
    PASSING,
    Fault,
    Faults,
    Outage,
    OutageKind,
    RetryAfter,
)
from runner.simulator.server import Simulator
from runner.simulator.state import TOLD, Behavior, SyncRecord

__all__ = [
    "NOT_ACTED",
    "PASSING",
    "TOLD",
    "AuditEntry",
    "Behavior",
    "Fault",
    "Faults",
    "Outage",
    "OutageKind",
    "RetryAfter",
    "Simulator",
    "SyncRecord",
]
