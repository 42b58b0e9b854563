"""When a run goes on, and when it must stop by itself. Arguments in, values out.

`limits` says how many rows may fail, `suspicions` when what fails is no row's fault,
`waves` which rows go first, `gates` whether they went well enough for the next ones.
"""

from runner.rollout.gates import Came, Condition, Gate
from runner.rollout.limits import FailureLimit
from runner.rollout.suspicions import Suspect, Suspicions
from runner.rollout.waves import Draw, Waves, seeded

__all__ = [
    "Came",
    "Condition",
    "Draw",
    "FailureLimit",
    "Gate",
    "Suspect",
    "Suspicions",
    "Waves",
    "seeded",
]
