"""Looks at everything that a run needs, before there is one: here, and at the host.

=============  ==========================================================================
``findings``   what a check is: what was seen, and what to mend
``here``       this machine: versions, settings, key, folder, descriptors
``there``      the host: its name, TLS, whether it speaks the Sync API, its clock, one read
``rounds``     all of them, in order
=============  ==========================================================================
"""

from __future__ import annotations

from runner.doctor.findings import Check, Status, worst
from runner.doctor.rounds import Patient, examine

__all__ = ["Check", "Patient", "Status", "examine", "worst"]
