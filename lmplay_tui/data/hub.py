"""Datasets of the Hugging Face hub, through `datasets.load_dataset`; no script of a dataset is ever run."""

import errno
import re
import time
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from lmplay_tui.background import call_with_ticks
from lmplay_tui.data.hub_csv import cache, csv_builder, csv_cache, kept, prepared
from lmplay_tui.data.library import DownloadProgress, listening, quiet_datasets
from lmplay_tui.data.splits import ReportProgress, Splits, choose, of_dataset
from lmplay_tui.errors import DataError, UserError, unchain
from lmplay_tui.formats import format_bytes, format_megabytes
from lmplay_tui.options import nearest
from lmplay_tui.plan.schema import DatasetSpec
from lmplay_tui.text import one_line

SILENT_S = 90.0  # without a byte from the hub, its own retries included
STUCK_S = 900.0  # after the first byte: unpacking a large archive moves no bar
WITHOUT_NETWORK = "or copy the datasets folder of a machine where --save-datasets has filled it"


def read(spec: DatasetSpec, report: ReportProgress, silent_s: float = SILENT_S) -> Splits:
    """The rows to train and to validate on, downloaded if the cache of `datasets` does not hold them.

    Raises `UserError` where the hub has no such dataset, configuration or split, `DataError` where it cannot be
    reached, stays silent for `silent_s` seconds, or the disk is full: one line each, naming the dataset.
    """
    report("downloading", spec.name, None)
    with listening() as progress:

        def tick() -> None:
            _tick(spec, progress, report, silent_s)

        progress.announced_bytes = call_with_ticks(lambda: _bytes_to_download(spec), tick)
        if progress.announced_bytes is not None:
            tick()  # before the first of them is asked for
        return call_with_ticks(lambda: _load(spec), tick)


def _load(spec: DatasetSpec) -> Splits:
    try:
        if (csv := csv_builder(spec)) is not None:
            return _chosen(spec, prepared(csv))
        try:
            found = _asked(spec)
        except Exception as error:
            if "agent traces" not in str(unchain(error)):
                raise
            found = _asked(spec, parse_agent_traces=False)  # rows that look like such are rows to us
        return _chosen(spec, found, _doubts(found))
    except UserError:
        raise
    except Exception as error:  # of many libraries, without a common base
        raise translated(spec, error) from error


def _chosen(spec: DatasetSpec, found: Any, notes: tuple[str, ...] = ()) -> Splits:
    return choose(spec, {name: of_dataset(split) for name, split in found.items()}, notes)


def _asked(spec: DatasetSpec, **switches: bool) -> Any:
    return quiet_datasets().load_dataset(spec.path, spec.config, revision=spec.revision, **switches)


def _doubts(found: Any) -> tuple[str, ...]:
    """What is to be told of a copy in the cache that was made of CSV by the library alone; there is no other now."""
    made_by = {getattr(getattr(split, "info", None), "builder_name", None) for split in found.values()}
    if "csv" not in made_by:
        return ()
    return ("read from an older copy in the cache: zeros before its numbers, NA and None may be lost; with network, it "
            "is read anew",)  # fmt: skip


def _bytes_to_download(spec: DatasetSpec) -> int | None:
    """How much the hub will send; None where it is here already, or not known: then the hub is not asked."""
    library = quiet_datasets()
    if library.config.HF_HUB_OFFLINE or kept(spec, cache()) or kept(spec, csv_cache()):
        return None
    try:
        builder = library.load_dataset_builder(spec.path, spec.config, revision=spec.revision)
        if builder.info.download_size:
            return int(builder.info.download_size)
        files = {file for split in (builder.config.data_files or {}).values() for file in split}
        system = import_module("huggingface_hub").HfFileSystem()
        return sum(int(system.info(file)["size"]) for file in files if file.startswith("hf://")) or None
    except Exception:  # of many libraries, without a common base; what is wrong is said when it is loaded
        return None


def _tick(spec: DatasetSpec, progress: DownloadProgress, report: ReportProgress, silent_s: float) -> None:
    silent = time.monotonic() - progress.moved
    limit = STUCK_S if progress.bytes or progress.writing else silent_s
    if silent > limit:
        raise DataError(
            f"dataset {spec.name}: the hub has not answered for {limit:.0f} s; try again later, {WITHOUT_NETWORK}"
        )
    if progress.writing:
        report("loading", f"{spec.name}: writing rows to the cache", progress.fraction())
    elif progress.retry:
        report("downloading", f"{spec.name}: {progress.retry}", None)
    else:
        figures = [format_megabytes(progress.bytes)] if progress.bytes >= 1e6 else []
        figures += [format_bytes(progress.announced_bytes)] if progress.announced_bytes is not None else []
        received = f", {' of '.join(figures)}" if figures else ""
        report("downloading", f"{spec.name}{received}", progress.fraction())


def translated(spec: DatasetSpec, error: Exception) -> UserError:
    """What a library's error means for a user: one line that names the dataset and says what to do."""
    name, path, said = f"dataset {spec.name}", one_line(spec.path, 120), str(error)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if _full(error):
        return DataError(f"{name}: the disk is full; free some space, or set HF_HOME to a folder on another disk")
    if "gated" in said.lower():
        return UserError(f"{name}: {path} is open to those only who accept its terms on the hub; then: hf auth login")
    if "DatasetNotFoundError" in kinds:
        return UserError(f"{name}: the hub has no dataset {path}, or it is private (then: hf auth login)")
    if "dataset scripts" in said.lower():
        return UserError(f"{name}: {path} is a script, and scripts are not run; look for a Parquet copy of it")
    if found := re.search(r"BuilderConfig '?(.*?)'? not found. Available: \[(.*)\]", said, re.DOTALL):
        return _no_config(name, found[1], re.findall(r"'([^']*)'", found[2]))
    if "Config name is missing" in said:
        known = re.findall(r"'([^']*)'", said)
        return UserError(f"{name}: {path} has several configurations; set config to one of {_listed(known)}")
    if found := re.search(r'Unknown split "?(.*?)"?\. Should be one of \[(.*)\]', said):
        return UserError(f"{name}: there is no split {one_line(found[1], 60)}; it has {one_line(found[2])}")
    if "OfflineModeIsEnabled" in said:
        return DataError(f"{name}: HF_HUB_OFFLINE is set, and {path} is not in the cache; unset it, {WITHOUT_NETWORK}")
    if (status := _status(error)) is not None:
        if status in (401, 403):
            return UserError(f"{name}: the hub refuses access to {path} ({status}); hf auth login, or check its name")
        return DataError(f"{name}: the hub answers with an error ({status}); try again later, {WITHOUT_NETWORK}")
    if isinstance(error, OSError):
        return DataError(f"{name}: the hub cannot be reached; check the network, {WITHOUT_NETWORK}")
    return DataError(f"{name}: {path} cannot be read ({one_line(unchain(error), 160) or type(error).__name__})")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    """The status of the HTTP answer that began the trouble."""
    for link in _chain(error):
        status = getattr(getattr(link, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
    return None


def _full(error: BaseException) -> bool:
    return any(isinstance(link, OSError) and link.errno in (errno.ENOSPC, errno.EDQUOT) for link in _chain(error))


def _no_config(name: str, wanted: str, known: list[str]) -> UserError:
    return UserError(
        f"{name}: there is no config {one_line(wanted, 60)}{nearest(wanted, known)}; it has {_listed(known)}"
    )


def _listed(names: list[str]) -> str:
    return one_line(", ".join(names), 160)
