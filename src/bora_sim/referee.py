"""When the simulated judge speaks: once an episode, when the scene of that very episode shows its outcome. Pure."""

from __future__ import annotations


class Referee:
    """Follows the episode and the truth of the scene."""

    def __init__(self) -> None:
        self._episode, self._seed, self._started_ns = '', -1, 0
        self._open = False  # an episode runs that has not been judged

    def on_episode(self, episode: str, running: bool, seed: int, started_ns: int) -> None:
        """An event of the episode keeper."""
        if not running:
            self._open = False
        elif episode != self._episode:
            self._episode, self._seed, self._started_ns, self._open = episode, seed, started_ns, True

    def on_truth(self, stamp_ns: int, seed: int, success: bool, failure: bool) -> bool | None:
        """True for a success mark and False for a failure mark to make now, else None."""
        if not self._open or seed != self._seed or stamp_ns < self._started_ns or not (success or failure):
            return None
        self._open = False
        return success

    def refused(self) -> None:
        """The mark could not be made: make it at the next truth."""
        self._open = True
