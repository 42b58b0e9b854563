"""Whose turn it is to send, and the sleeping that goes with it.

Whoever may leave does so through `passing`; a wait for it is a turn (`turns`), and the requests
of users with a limit of their own wait in nobody's way (`lanes`).
"""

from runner.turnstile.passing import Turnstile
from runner.turnstile.turns import Closing, SetAside

__all__ = ["Closing", "SetAside", "Turnstile"]
