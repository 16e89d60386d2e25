"""The batches of a stage, one ahead of the step, so that the next one can be named before it is trained."""

from lmplay_tui.data.batches import Batch, Position
from lmplay_tui.data.prefetch import Ahead
from lmplay_tui.data.stage_data import StageData

LATE_S = 2.0  # a save waits no longer for a name of the next batch


class Feed:
    """Hands out a stage's batches from `start` on. What has been read ahead never counts as trained."""

    def __init__(self, data: StageData, start: Position, batch_size: int) -> None:
        self._batches: Ahead[Batch] = data.batches(start)
        self._waiting: list[Batch] = []
        # Batches can only be the same where these are: a digest is compared only then.
        self._kind = f"{data.fingerprint[:16]}/{batch_size}"

    def ready(self, seconds: float) -> bool:
        """Whether `take` would not wait, after at most `seconds`."""
        return bool(self._waiting) or self._batches.ready(seconds)

    def take(self) -> Batch | None:
        """The next batch; None at the stage's end."""
        if self._waiting:
            return self._waiting.pop()
        return next(self._batches, None)

    def give_back(self, batch: Batch) -> None:
        """A batch that was taken, but not trained, is next again."""
        self._waiting.append(batch)

    def next_digest(self) -> str:
        """A name of the next batch's content, for the checkpoint; empty at the stage's end, or if it is late."""
        if not self.ready(LATE_S):
            return ""
        batch = self.take()
        if batch is None:
            return ""
        self.give_back(batch)
        return f"{self._kind}/{batch.digest()}"

    def compare(self, recorded: str) -> tuple[bool, str] | None:
        """Whether the next batch is the one that the checkpoint recorded, and a sentence; None: nothing to compare."""
        if not recorded or recorded.rpartition("/")[0] != self._kind:
            return None
        if self.next_digest() == recorded:
            return True, f"the next batch is the one the checkpoint names ({recorded[-64:][:12]})"
        return False, "the next batch is not the one the checkpoint names: the dataset has changed since"

    def close(self) -> None:
        """End the reading ahead."""
        self._batches.close()
