"""The phases of a start: what a run does before its first step is made, and how long each takes."""

import time


class Phases:
  """Seconds by phase, in order; each lasts from the end of the one before."""

  def __init__(self) -> None:
    self.seconds: dict[str, float] = {}
    self._last = time.monotonic()

  def ended(self, name: str) -> None:
    """The phase of this name, or another part of it, ends now."""
    now = time.monotonic()
    self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
    self._last = now

  def __str__(self) -> str:
    each = ', '.join(f'{name} {seconds:.1f}' for name, seconds in self.seconds.items())
    return f'start-up, in seconds: {each}; {sum(self.seconds.values()):.1f} in all'
