"""Which files of a folder are a dataset's rows, and of which split: by its README.md, or by the files' names.

The conventions of the Hugging Face hub hold for folders of this machine too.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmplay_tui.data.row_files import listed, of_one_kind, stem, with_rows
from lmplay_tui.errors import UserError
from lmplay_tui.files import open_given
from lmplay_tui.options import nearest
from lmplay_tui.plan.dataset_specs import file_kind
from lmplay_tui.plan.schema import DatasetSpec
from lmplay_tui.text import one_line

_SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_WORDS = {word: split for split, words in _SPLIT_WORDS.items() for word in words}
_SHARD = re.compile(r"(?:.*/)?data/(?P<split>\w+(?:\.\w+)*)-\d{5}-of-\d{5}[^/]*")
_README_BYTES = 1 << 20


@dataclass(frozen=True)
class Layout:
    """The files of each split, in their order, and facts to be told."""

    splits: dict[str, list[Path]]
    notes: tuple[str, ...] = ()


def lay_out(spec: DatasetSpec, folder: Path) -> Layout:
    """The files of the configuration that `spec` asks for.

    Raises `UserError` where the folder has none that is read, or not that configuration.
    """
    there, lost = _files(folder)
    configs, problem = _configs(folder)
    notes = [problem] if problem else []
    if lost:
        notes.append(f"left out, for they are links to nothing: {listed(lost)}")
    config = _chosen(spec, folder, configs, problem)
    beside: list[str] = []
    if config is None or not config.patterns:
        inside = there if config is None else _below(spec, config.name, config.data_dir, there)
        named, beside = _by_names(with_rows(spec, folder, inside), notes)
        # Each split may be of a kind of its own.
        named = {split: of_one_kind(spec, folder, names) for split, names in named.items()}
    else:
        named, inside = {}, []
        for split, patterns in config.patterns.items():
            matching, taken = _matching(spec, config, patterns, there)
            if others := [name for name in matching if name not in taken]:
                taken |= set(of_one_kind(spec, folder, with_rows(spec, folder, others)))
            named[split] = [name for name in matching if name in taken]
            inside += matching
    known = {name for names in (*named.values(), beside) for name in names} | {"README.md"}
    if left := [name for name in dict.fromkeys(inside) if name not in known]:
        notes.append(f"left out: {listed(left)}")
    if config is not None and len(configs) > 1:
        notes.insert(0, f"config {one_line(config.name, 60)} of its README.md")
    splits = {split: [folder / name for name in names] for split, names in named.items() if names}
    return Layout(splits, tuple(notes))


def _files(folder: Path) -> tuple[list[str], list[str]]:
    """The files below a folder, hidden ones left out, sorted, and links to nothing. Circles of links are not followed.

    Raises `OSError` where a folder cannot be looked into.
    """

    def fail(error: OSError) -> None:
        raise error

    found, seen = [], set()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=fail):
        about = Path(place).stat()
        if (about.st_dev, about.st_ino) in seen:
            folders.clear()
            continue
        seen.add((about.st_dev, about.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        below = Path(place).relative_to(folder)
        found += [(below / name).as_posix() for name in names if not name.startswith(".")]
    there = sorted(name for name in found if (folder / name).is_file())
    return there, sorted(name for name in found if not (folder / name).exists())


def _by_names(names: list[str], notes: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The splits that the files' names speak of, or else their folders'; all are `train` where none does.

    Where some do, the others are `train`; or, where files are called so, they are left out, and returned.
    """
    shards = {name: found["split"] for name in names if (found := _SHARD.fullmatch(name))}
    some_train = any(_split_of(name) == "train" for name in names)
    splits: dict[str, list[str]] = {}
    unnamed = []
    for name in names:
        # `dev_blog.jsonl` beside `news.jsonl` is no split: where nothing says train, the word must stand alone.
        split = shards.get(name) if shards else _split_of(name, alone=not some_train)
        if split is None:
            unnamed.append(name)
        else:
            splits.setdefault(split, []).append(name)
    order = list(_SPLIT_WORDS)
    splits = dict(sorted(splits.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))
    if unnamed and "train" not in splits:
        splits, unnamed = {"train": unnamed, **splits}, []
    elif unnamed:
        notes.append(f"left out, for others are called train: {listed(unnamed)}")
    if len(splits) > 1:
        said = "; ".join(f"{one_line(split, 60)}: {listed(files, 3)}" for split, files in splits.items())
        notes.append(f"splits by the files' names: {said}")
    return splits, unnamed


def _split_of(name: str, *, alone: bool = False) -> str | None:
    """By a word of the file's name, else of its nearest folder's; `train` where one name has several.

    `alone`: the word must be the whole name, but for numbers.
    """
    *folders, last = name.split("/")
    for part in (stem(last), *reversed(folders)):
        words = re.findall(r"[a-z]+", part.lower())
        found = [_WORDS[word] for word in words if word in _WORDS]
        if found and (not alone or set(words) <= {*_WORDS, "of"}):
            return "train" if "train" in found else found[0]
    return None


# README.md


@dataclass(frozen=True)
class _Config:
    """A configuration that a README declares: patterns of files for each split, or a folder."""

    name: str
    patterns: dict[str, list[str]]
    data_dir: str
    is_default: bool


def _configs(folder: Path) -> tuple[list[_Config], str]:
    """The configurations of the folder's README.md, and what is wrong with its header ("": nothing)."""
    readme = folder / "README.md"
    try:
        with open_given(readme) as file:
            text = file.read(_README_BYTES).decode("utf-8-sig", "replace")
    except OSError:
        return [], ""
    text = text.replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff \t\n")
    header = re.match(r"---[ \t]*\n(.*?)^---[ \t]*$", text, re.DOTALL | re.MULTILINE)
    if header is None:
        return [], ""
    import yaml

    try:
        said = yaml.safe_load(header[1])
        entries = said.get("configs") if isinstance(said, dict) else None
        return [_config(entry) for entry in entries or ()], ""
    except (yaml.YAMLError, TypeError, ValueError, AttributeError, RecursionError) as error:
        return [], f"the header of its README.md is not as it should be, and is not used ({one_line(error, 100)})"


def _config(entry: Any) -> _Config:
    """Raises `ValueError` for an entry of another form."""
    if not isinstance(entry, dict):
        raise ValueError(f"configs holds {type(entry).__name__}")
    name = _word(entry.get("config_name", "default"))
    given = entry.get("data_files")
    patterns: dict[str, list[str]] = {}
    if isinstance(given, dict):
        parts = list(given.items())
    elif isinstance(given, list) and any(isinstance(part, dict) for part in given):
        parts = [(part["split"], part["path"]) for part in given if {"split", "path"} <= part.keys()]
    else:
        parts = [] if given is None else [("train", given)]
    for split, paths in parts:
        words = [paths] if isinstance(paths, str) else paths
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError(f"data_files of {name}")
        patterns.setdefault(_word(split), []).extend(words)
    return _Config(name, patterns, _word(entry.get("data_dir") or ""), entry.get("default") is True)


def _word(value: Any) -> str:
    """A scalar as text. A list made of aliases of lists is small, and would be gigabytes of text: `ValueError`."""
    if isinstance(value, list | tuple | set | dict):
        raise ValueError(f"configs holds {type(value).__name__} for a name")
    return str(value)


def _chosen(spec: DatasetSpec, folder: Path, configs: list[_Config], problem: str) -> _Config | None:
    names = [config.name for config in configs]
    known = one_line(", ".join(names), 160)
    if spec.config is not None:
        if spec.config in names:
            return configs[names.index(spec.config)]
        wanted = one_line(spec.config, 60)
        if configs:
            hint = nearest(spec.config, names)
            raise UserError(f"dataset {spec.name}: there is no config {wanted}{hint}; it has {known}")
        if spec.config != "default":
            why, shown = problem or "no README.md there declares one", one_line(folder, 120)
            raise UserError(
                f"dataset {spec.name}: {shown} has no config {wanted}: {why}; leave config out, or name the files or "
                "their folder as path"
            )
        return None
    if len(configs) < 2:
        return configs[0] if configs else None
    first = next((config for config in configs if config.is_default), None)
    first = first or next((config for config in configs if config.name == "default"), None)
    if first is None:
        raise UserError(f"dataset {spec.name}: it has several configurations; set config to one of {known}")
    return first


def _matching(spec: DatasetSpec, config: _Config, patterns: list[str], there: list[str]) -> tuple[list[str], set[str]]:
    """The files that fit the patterns, in the patterns' order, each once; and those of them that are named whole."""
    meant: set[str] = set()
    found: dict[str, None] = {}
    inside = _inside(spec, config.name, config.data_dir)
    for given in patterns:
        pattern = _inside(spec, config.name, given)
        pattern = f"{inside}/{pattern}" if inside else pattern
        if pattern in there and file_kind(pattern) is not None:
            meant.add(pattern)
        names = [pattern] if pattern in there else [name for name in there if matches(pattern, name)]
        names = names or [name for name in there if name.startswith(f"{pattern}/")]
        if not names:
            raise UserError(
                f"dataset {spec.name}: README.md, config {one_line(config.name, 60)}: there is no file "
                f"{one_line(pattern, 100)}"
            )
        found |= dict.fromkeys(names)
    return list(found), meant


def _below(spec: DatasetSpec, config: str, data_dir: str, there: list[str]) -> list[str]:
    inside = _inside(spec, config, data_dir)
    return [name for name in there if name.startswith(f"{inside}/")] if inside else there


def _inside(spec: DatasetSpec, config: str, given: str) -> str:
    """A pattern of a README as a relative one without `.`; what leads out of the folder is refused."""
    parts = [part for part in given.split("/") if part not in ("", ".")]
    if given.startswith(("/", "~")) or ".." in parts or "://" in given:
        raise UserError(
            f"dataset {spec.name}: README.md, config {one_line(config, 60)}: {one_line(given, 100)} leads out of its "
            "folder, and is not read"
        )
    return "/".join(parts)


def matches(pattern: str, name: str) -> bool:
    """Whether a file's relative path fits a pattern: `*` and `?` within a name, `[...]`, `**` across folders."""
    return re.fullmatch(_expression(pattern), name) is not None


def _expression(pattern: str) -> str:
    tokens = re.findall(r"\*\*/|\*\*|\*|\?|\[[!^]?\]?[^\]/]*\]|.", pattern, re.DOTALL)
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(
        known[token] if token in known else _set(token) if len(token) > 1 else re.escape(token) for token in tokens
    )


def _set(token: str) -> str:
    body = token[1:-1].replace("\\", "\\\\").replace("[", "\\[")
    return f"[^{body[1:]}]" if body.startswith(("!", "^")) else f"[{body}]"
