"""The `datasets` library, told not to write on the terminal."""

import logging
from functools import cache
from typing import Any


@cache
def quiet_datasets() -> Any:
    """The module `datasets`, imported when it is first needed (more than a second), without bars and log lines."""
    import datasets
    from huggingface_hub.utils import logging as hub_logging
    from huggingface_hub.utils.tqdm import disable_progress_bars

    datasets.disable_progress_bars()
    disable_progress_bars()
    # What goes wrong is raised too, and said by us in one line.
    datasets.logging.set_verbosity(logging.CRITICAL)
    hub_logging.set_verbosity(logging.CRITICAL)
    return datasets
