"""The `datasets` library, told not to write on the terminal and not to wait for ever."""

import importlib
import logging
import os
import threading
from functools import cache
from typing import Any

TIMEOUT_S = 20


@cache
def quiet_datasets() -> Any:
    """The module `datasets`, imported when it is first needed (more than a second), without bars and log lines."""
    for name in ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"):  # read when the library is imported
        os.environ.setdefault(name, str(TIMEOUT_S))
    # The default lock of the bars starts a process, which fails where a dashboard has taken stderr.
    importlib.import_module("tqdm.std").tqdm.set_lock(threading.RLock())
    import datasets
    from huggingface_hub.utils import logging as hub_logging
    from huggingface_hub.utils.tqdm import disable_progress_bars

    datasets.disable_progress_bars()
    disable_progress_bars()
    # What goes wrong is raised too, and said by us in one line.
    datasets.logging.set_verbosity(logging.CRITICAL)
    hub_logging.set_verbosity(logging.CRITICAL)
    return datasets
