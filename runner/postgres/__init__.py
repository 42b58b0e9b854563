"""Carries runs with workers on any machine, over PostgreSQL.

The database holds all that a run is: its input, what its workers share (`common`), their journals.
Whoever leads a run does so by `lead` and `afar`; a worker is a `station`, which has a
`hand` for each run.
"""

from runner.postgres.afar import Afar, hand_in
from runner.postgres.common import Common
from runner.postgres.dsn import find_dsn
from runner.postgres.lead import Lead
from runner.postgres.listing import entries
from runner.postgres.ordering import is_led, order
from runner.postgres.scheduling import Schedule, add, remove, schedules
from runner.postgres.schema import Standing, init, look, must_be_ready
from runner.postgres.station import Station
from runner.postgres.store import Led, fetch, publish
from runner.postgres.submitting import defer_lead, parts_of
from runner.postgres.upkeep import LOST

__all__ = [
    "LOST",
    "Afar",
    "Common",
    "Lead",
    "Led",
    "Schedule",
    "Standing",
    "Station",
    "add",
    "defer_lead",
    "entries",
    "fetch",
    "find_dsn",
    "hand_in",
    "init",
    "is_led",
    "look",
    "must_be_ready",
    "order",
    "parts_of",
    "publish",
    "remove",
    "schedules",
]
