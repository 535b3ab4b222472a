"""What was done to the receiver and what it lost: the soak's table."""

import dataclasses
import traceback

LOSSES_SHOWN = 20


@dataclasses.dataclass
class Tally:
    """One fault: how often it was tried, how often it hit, and what was lost."""

    row: str  # of the failure model, e.g. F1
    fault: str
    tried: int = 0
    fired: int = 0
    losses: list = dataclasses.field(default_factory=list)
    notes: dict = dataclasses.field(default_factory=dict)

    def saw(self, has_fired, losses):
        """One try: whether the fault hit what it was meant to hit, and the losses found after it."""
        self.tried += 1
        self.fired += bool(has_fired)
        self.losses.extend(losses)

    def attempt(self, one_try, *arguments):
        """Calls `one_try(*arguments)`; an exception is a loss, as nothing is known then; the run goes on."""
        try:
            one_try(*arguments)
        except Exception:
            self.saw(False, [traceback.format_exc(limit=-4)])

    def count(self, note, number=1):
        """Adds to a number shown beside the row."""
        self.notes[note] = self.notes.get(note, 0) + number

    def most(self, note, number):
        """Keeps the largest of the numbers given."""
        self.notes[note] = max(self.notes.get(note, number), number)

    @property
    def is_good(self):
        return self.fired > 0 and not self.losses

    def check(self, fired_min=1):
        """Fails where something was lost, or the fault did not fire often enough to prove anything."""
        assert not self.losses, "\n".join([f"{self.row} {self.fault}:", *self.losses[:LOSSES_SHOWN]])
        assert self.fired >= fired_min, f"{self.row} {self.fault}: fired {self.fired} of {self.tried} times"


def table(tallies):
    """All rows, aligned; losses below them in words."""
    head = ("row", "fault", "tried", "fired", "losses", "seen")
    lines = [head] + [
        (t.row, t.fault, str(t.tried), str(t.fired), str(len(t.losses)), _notes(t.notes)) for t in tallies
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    out = []
    for line in lines:
        cells = [
            f"{cell:<{w}}" if i < 2 else f"{cell:>{w}}" for i, (cell, w) in enumerate(zip(line, widths, strict=False))
        ]
        out.append("  ".join([*cells, line[5]]).rstrip())
    for tally in tallies:
        out += [f"LOSS {tally.row} {tally.fault}: {loss}" for loss in tally.losses[:LOSSES_SHOWN]]
        if tally.fired == 0:
            out.append(f"NEVER FIRED {tally.row} {tally.fault}")
    return "\n".join(out)


def _notes(notes):
    return ", ".join(
        f"{value:g} {name}" if isinstance(value, float) else f"{value} {name}" for name, value in notes.items()
    )
