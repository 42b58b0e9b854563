"""What the rest of the engine knows of tokens."""

from __future__ import annotations

from typing import Protocol


class TokenSource(Protocol):
    """Where the ``Authorization`` header of a user comes from.

    Ask `header` before every attempt, after every wait; only when it answers None, await
    `mint`. `foresee` spares that wait. Tell a 401 with `discard`, then ask again, once, if the
    source is `renewable`.
    """

    @property
    def renewable(self) -> bool:
        """Whether a discarded token is followed by another one. If not, a 401 is final."""

    def header(self, user_id: str) -> str | None:
        """Return ``Bearer …`` for *user_id* if a fresh one is at hand. Never waits."""

    def foresee(self, user_id: str) -> None:
        """Take in that a header of *user_id* is wanted soon: begin to make one, if need be."""

    async def mint(self, user_id: str) -> str:
        """Return ``Bearer …`` for *user_id*, fresh, made now if need be."""

    def discard(self, user_id: str, header: str) -> None:
        """Never hand out *header* again: the API refused it. One already replaced stays."""

    def learn_server_time(self, date_header: str) -> bool:
        """Take in a ``Date`` header. True: the assumed clock moved, so a 401 may have been that."""

    def close(self) -> None:
        """Forget every token. Nothing can be minted afterwards."""
