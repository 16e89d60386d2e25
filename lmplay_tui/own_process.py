"""How this program starts a process of its own: the same interpreter, the same code, nothing of the user's folder."""

import os
import sys
from pathlib import Path

_HOME = Path(__file__).resolve().parent.parent  # where the package lies


def own_command(module: str, *words: str) -> list[str]:
    """The command line of one of our modules; start it with `own_environment`.

    -P: the working folder is the user's, and a `torch.py` or `random.py` in it is not what our code imports.
    """
    return [sys.executable, "-P", "-m", module, *words]


def own_environment() -> dict[str, str]:
    """This process's environment, in which such a process finds the same package, also one that is not installed."""
    environment = dict(os.environ)
    # The first place may be a working folder, which the other process does not look into.
    if not any(folder and Path(folder).resolve() == _HOME for folder in sys.path[1:]):
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_HOME), environment.get("PYTHONPATH")]))
    return environment
