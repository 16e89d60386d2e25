"""One of several processes that train a run together."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmplay_tui.errors import TrainingError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store


class RankLostError(TrainingError):
    """Another of the processes that train together has ended, or does not answer."""


@dataclass(frozen=True)
class ProcessGroup:
    """Torch's default process group, joined."""

    rank: int
    world_size: int
    store: "Store"
    attempt: str
    host: str
