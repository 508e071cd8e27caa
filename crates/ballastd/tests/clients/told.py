"""What the programs share that work while nodes are killed: how far they are, when to end, and what they may count.

They print a line for each step that was acknowledged, and work until their input ends, whereupon all nodes live again.
"""

import sys
import threading

USER, PASSWORD = "shop", "secret"
#: Answers of Ballast that say that nothing was changed.
REFUSED = ("CLUSTERDOWN", "OVERLOADED")

_ended = threading.Event()


def _wait_for_the_end():
    sys.stdin.read()
    _ended.set()


threading.Thread(target=_wait_for_the_end, daemon=True).start()


def is_over():
    """Whether it is time to end."""
    return _ended.is_set()


def step():
    """One more step was acknowledged."""
    print("step", flush=True)


def url(address):
    """As in the README: a user with a password and a prefix for its keys."""
    return f"redis://{USER}:{PASSWORD}@{address}/0"


class Count:
    """What a counter may be that one client alone counts up."""

    def __init__(self):
        self.sure = self.unknown = self.refused = 0
        self._low = self._high = 0

    def answered(self, count):
        """It was counted up and came to this."""
        count = int(count)
        assert self._low < count <= self._high + 1, f"{count} after {self._low} to {self._high}"
        self.sure += 1
        self._low = self._high = count

    def failed(self, error=""):
        """No answer came, or one that says that nobody knows; or one that says that nothing was done."""
        if str(error).startswith(REFUSED):
            self.refused += 1
        else:
            self.unknown += 1
            self._high += 1

    def check(self, count):
        """It is this now."""
        assert self._low <= int(count) <= self._high, f"{count}, and it was {self._low} to {self._high}"
        self._low = self._high = int(count)

    def __str__(self):
        return f"{self._low}: {self.sure} acknowledged, {self.unknown} unknown, {self.refused} refused"
