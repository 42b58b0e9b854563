"""Takes orders for a run that is at work: a socket in its folder, a line of JSON each way."""

from __future__ import annotations

from runner.control.asking import ask, glance_at
from runner.control.desk import Desk
from runner.control.orders import Glance, Order, Reply, Standing, Waiting, order_of
from runner.control.place import SOCKET

__all__ = [
    "SOCKET",
    "Desk",
    "Glance",
    "Order",
    "Reply",
    "Standing",
    "Waiting",
    "ask",
    "glance_at",
    "order_of",
]
