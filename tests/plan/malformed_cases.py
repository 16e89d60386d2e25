"""Plans with one rule broken each, made from the declarations of options and keys."""

import json
from typing import Any, NamedTuple

from lmplay_tui import options
from lmplay_tui.plan import lmplay, tables
from lmplay_tui.plan.problems import Form
from lmplay_tui.plan.schema import RESERVED_NAMES
from tests.plan.breaking import keys_of, word_breaks

STAGE = ("[stages.s]", 'dataset = "pydocs"')
UNKNOWN = "unknown key; did you mean"


class Case(NamedTuple):
    label: str
    form: Form
    text: str
    line: int
    key: str
    said: str


def _case(label: str, form: Form, lines: list[str], key: str, said: str) -> Case:
    """A case whose broken line is the one that ends with `!`."""
    (number,) = [number for number, line in enumerate(lines, 1) if line.endswith("!")]
    return Case(label, form, "\n".join(line.removesuffix("!") for line in lines) + "\n", number, key, said)


def _toml_cases(table: str, key: str, kind: Any, *, before=(), inside=(), after=()):
    for rule, toml, _, said in word_breaks(kind):
        if toml:
            lines = [*before, f"[{table}]" if table else "", f"{key} = {toml}!", *inside, *after]
            yield _case(f"{table}.{key} {rule}", "toml", lines, f"{table}.{key}".lstrip("."), said)


def _option_cases():
    for name in options.train_names():
        yield from _toml_cases("train", name, name, before=["# purpose"], after=STAGE)
    for name in options.stage_names():
        yield from _toml_cases("stages.s", name, name, inside=['dataset = "pydocs"'])


def _stage_key_cases():
    for key, kind in keys_of(tables.StageKeys).items():
        inside = [] if key.startswith("dataset") else ['dataset = "pydocs"']
        yield from _toml_cases("stages.s", key, kind, inside=inside, after=["[train]", "lr = 0.1"])
    yield from _toml_cases("", "title", tables.Word, before=["#"], after=STAGE)
    for index, (names, entry) in enumerate((('["pydocs", {}]', tables.Word), ('[\n"pydocs", {}]', tables.Word))):
        for rule, toml, _, said in word_breaks(entry):
            if toml:
                text = f"[stages.s]\ndatasets = {names.format(toml)}\n"
                yield Case(f"entry {index} {rule}", "toml", text, 2 + index, "stages.s.datasets[1]", said)
    for rule, toml, _, said in word_breaks(tables.Weight):
        if toml:
            text = f'[stages.s]\ndatasets = ["pydocs", "wikitext"]\nweights = [\n  1,\n  {toml},\n]\n'
            yield Case(f"weight {rule}", "toml", text, 5, "stages.s.weights[1]", said)


COLUMNS_BESIDE = {
    "prompt": 'truth = "a"', "truth": 'prompt = "q"', "title": 'text = "t"', "system": 'prompt = "q"\ntruth = "a"'
}  # fmt: skip


def _dataset_key_cases():
    for key, kind in keys_of(tables.DatasetTable).items():
        inside = ([] if key == "path" else ['path = "a/b"']) + [COLUMNS_BESIDE.get(key, "")]
        yield from _toml_cases("datasets.d", key, kind, inside=inside, after=["[stages.s]", 'dataset = "d"'])


def _json_cases():
    def lines(before: str, value: str, after: str) -> list[str]:
        return ["{", before, f"{value}!", after, "}"]

    for name in options.train_names():
        for rule, _, value, said in word_breaks(name):
            if value is not None:
                shown = lines('"train": {', f'"{name}": {value}', '}, "s": {"dataset": "pydocs"}')
                yield _case(f"json {name} {rule}", "json", shown, f"train.{name}", said)
    for key, kind in keys_of(lmplay.StepTable).items():
        beside = "" if key == "datasets" else ', "datasets": ["pydocs"]'
        for rule, _, value, said in word_breaks(kind):
            if value is not None:
                shown = lines('"steps": [{', f'"{key}": {value}{beside}', "}]")
                yield _case(f"step {key} {rule}", "json", shown, f"steps[0].{key}", said)
    for key, kind in keys_of(lmplay.LoaderTable).items():
        beside = "" if key == "ds_loader" else ', "ds_loader": "openorca"'
        for rule, _, value, said in word_breaks(kind):
            if value is not None:
                shown = lines('"steps": [{"datasets": ["d"]}], "datasets": {"d": {', f'"{key}": {value}{beside}', "}}")
                yield _case(f"loader {key} {rule}", "json", shown, f"datasets.d.{key}", said)
    for key, kind in (keys_of(lmplay.WikiArguments) | keys_of(lmplay.HubArguments)).items():
        loader = "wiki" if key == "lang" else "hf"
        args, beside = ("[]", "") if key == "lang" else ('["d", "a/b"]', ', "truth_column": "t"')
        beside = beside if key == "prompt_column" else ', "prompt_column": "p"' if key == "truth_column" else ""
        before = f'"datasets": {{"d": {{"ds_loader": "{loader}", "args": {args}, "kwargs": {{'
        for rule, _, value, said in word_breaks(kind):
            if value is not None:
                shown = lines(before, f'"{key}": {value}{beside}', '}}}, "steps": [{"datasets": ["d"]}]')
                yield _case(f"kwargs {key} {rule}", "json", shown, f"datasets.d.kwargs.{key}", said)


def _misplaced_cases():
    for name in options.names(options.Where.LINE):
        for table, lines in (("train", ["[train]"]), ("stages.s", STAGE)):
            text = [*lines, f"{name} = 1!", *(STAGE if table == "train" else [])]
            yield _case(
                f"{table} {name}", "toml", text, f"{table}.{name}", f"command line only: {options.OPTIONS[name].flag}"
            )
    for name in options.names(options.Where.RUN):
        if name not in tables.StageKeys.model_fields:
            yield _case(f"stage {name}", "toml", [*STAGE, f"{name} = 1!"], f"stages.s.{name}", "set it in [train]")
    for name in ("trust_remote_code", "script", "script_version", "loading_script"):
        for table in ("train", "stages.s", "datasets.d"):
            lines = ["[train]", "[datasets.d]", 'path = "a/b"', *STAGE]
            lines.insert(lines.index(f"[{table}]") + 1, f"{name} = true!")
            yield _case(f"{table} {name}", "toml", lines, f"{table}.{name}", "cannot make code run")
    lines = ["[datasets.d]", 'path = "a/b"', 'token = "x"!', *STAGE]
    yield _case("token", "toml", lines, "datasets.d.token", "HF_TOKEN")
    for name in ("model.py:Best", "a/b", "../x", "model.py", "x:Y", "a b", "-x"):
        lines = ["[train]", f'exp = "{name}"!', *STAGE]
        yield _case(f"exp {name}", "toml", lines, "train.exp", "from a file is set on the command line only: --exp")


def _unknown_cases():
    for name in options.train_names():
        yield _case(f"{name}x", "toml", ["[train]", f"{name}x = 1!", *STAGE], f"train.{name}x", UNKNOWN)
    for name in (*options.stage_names(), *tables.StageKeys.model_fields):
        yield _case(f"stage {name}x", "toml", [*STAGE, f"{name}x = 1!"], f"stages.s.{name}x", UNKNOWN)
    for name in tables.DatasetTable.model_fields:
        lines = ["[datasets.d]", 'path = "a/b"', f"{name}x = 1!", *STAGE]
        yield _case(f"dataset {name}x", "toml", lines, f"datasets.d.{name}x", f"unknown key; did you mean {name}?")
    for name in ("titl", "trian", "dataset", "stagess"):
        yield _case(f"top {name}", "toml", [f"{name} = 1!", *STAGE], name, UNKNOWN)
        yield _case(f"table {name}", "toml", [*STAGE, f"[{name}]!", "x = 1"], name, UNKNOWN)
    yield _case("far", "toml", ["[train]", "zzz = 1!", *STAGE], "train.zzz", "unknown key")
    yield _case("foreign", "toml", ["[train]", '"\\u001b[2Jzzz" = 1!', *STAGE], 'train."␛[2Jzzz"', "unknown key")
    for table in ("train", "stages", "datasets"):
        rest = [] if table == "stages" else STAGE
        yield _case(f"no table {table}", "toml", [f"{table} = 3!", *rest], table, "must be a table, got 3")
    for table in ("stages.s", "datasets.d"):
        head, _, last = table.partition(".")
        rest = [] if head == "stages" else STAGE
        lines = [f"[{head}]", f'{last} = "x"!', *rest]
        yield _case(f"no table {table}", "toml", lines, table, "must be a table, got 'x'")


def _missing_cases():
    yield Case("nothing", "toml", "", 1, "stages", "a plan needs at least one stage")
    yield Case("empty stages", "toml", "#\n[stages]\n", 2, "stages", "a plan needs at least one stage")
    yield Case("only train", "toml", "[train]\nlr = 1\n", 1, "stages", "a plan needs at least one stage")
    yield Case("no object", "json", "[1, 2]", 1, "file", "must hold a JSON object")
    yield Case("no dataset", "toml", "\n[stages.s]\nepochs = 1\n", 2, "stages.s.dataset", "is missing")
    yield Case("top-level", "toml", "\n\n[pretraining]\nepochs = 1\n", 3, "pretraining.dataset", "is missing")
    yield Case("json", "json", '{\n"pretraining": {"epochs": 1}}', 2, "pretraining.dataset", "is missing")
    text = '[datasets.d]\ntext = "t"\n[stages.s]\ndataset = "d"\n'
    yield Case("no path", "toml", text, 1, "datasets.d.path", "is missing")
    yield Case("no steps", "json", '{"steps": []}', 1, "steps", "must not be empty")
    yield Case("step", "json", '{"steps": [\n{}]}', 2, "steps[0].datasets", "is missing")
    loader = '{"datasets": {\n"d": {%s}},\n"steps": [{"datasets": ["d"]}]}'
    yield Case("no loader", "json", loader % "", 2, "datasets.d.ds_loader", "is missing")
    for words, said in (
        ('"ds_loader": "wiki"', "wiki needs lang"),
        ('"ds_loader": "hf"', "hf needs saved_as, path"),
        ('"ds_loader": "hf", "args": ["x"]', "hf needs path"),
        ('"ds_loader": "openorca", "args": ["x"]', "openorca takes nothing"),
        ('"ds_loader": "wiki", "args": ["en", "x"]', "wiki takes lang"),
        ('"ds_loader": "hf", "args": ["x", "a/b", "c", "d"]', "hf takes saved_as, path, name"),
    ):
        yield Case(words, "json", loader % words, 2, "datasets.d.args", said)
    hub = '"ds_loader": "hf", "args": ["x", "a/b"]'
    for words, key, said in (
        ('"ds_loader": "wiki", "args": ["English"]', "args[0]", "must be a language of Wikipedia"),
        ('"ds_loader": "wiki", "kwargs": {"lang": "e/n"}', "kwargs.lang", "must be a language of Wikipedia"),
        ('"ds_loader": "hf", "args": ["../x", "a/b"]', "args[0]", "is not of the form it needs"),
        ('"ds_loader": "hf", "args": ["x", "nosuch"]', "args[1]", "unknown dataset 'nosuch'"),
        ('"ds_loader": "hf", "args": ["x", 3]', "args[1]", "must be text, got 3"),
        (f'{hub}, "kwargs": {{"prompt_column": "p"}}', "kwargs.prompt_column", "needs truth"),
        (f'{hub}, "kwargs": {{"trust_remote_code": true}}', "kwargs.trust_remote_code", "cannot make code run"),
        (f'{hub}, "kwargs": {{"data_dir": "x"}}', "kwargs.data_dir", "unknown key"),
        ('"ds_loader": "openorca", "kwargs": {"lang": "en"}', "kwargs.lang", "unknown key"),
    ):
        yield Case(words, "json", loader % words, 2, f"datasets.d.{key}", said)


def _twice_cases():
    said = "is there a second time; first in line"
    for name in options.train_names():
        value = json.dumps(options.OPTIONS[name].default or 1)
        value = {"optimizer_warmup_fraction": "0.5", "shuffle": "true"}.get(name, value)
        value = "true" if options.OPTIONS[name].kind is bool else value
        lines = ["[train]", f"{name} = {value}", f"{name} = {value}!", *STAGE]
        yield _case(f"twice {name}", "toml", lines, f"train.{name}", f"{said} 2")
        lines = ["{", f'"train": {{"{name}": {value},', f'"{name}": {value}!', '}, "s": {"dataset": "pydocs"}}']
        yield _case(f"json twice {name}", "json", lines, f"train.{name}", f"{said} 2")
    yield _case("twice header", "toml", [*STAGE, "[train]", "[stages.s]!", "epochs = 2"], "stages.s", f"{said} 1")
    lines = ['stages.s = {dataset = "a/b", dataset = "a/c"}!']
    yield _case("twice inline", "toml", lines, "stages.s.dataset", f"{said} 1")
    lines = [*STAGE, "[stages.S]!", 'dataset = "pydocs"']
    yield _case("case", "toml", lines, "stages.S", "there is a stage 's' already")
    lines = ["[datasets.d]", 'path = "a/b"', "[datasets.D]!", 'path = "a/b"', *STAGE]
    yield _case("case dataset", "toml", lines, "datasets.D", "there is a dataset 'd' already")
    text = '{"steps": [{"datasets": ["pydocs"], "step_name": "a"},\n{"datasets": ["pydocs"], "step_name": "A"}]}'
    yield Case("case step", "json", text, 2, "steps[1].step_name", "there is a stage 'a' already")


def _name_cases():
    said = "is no stage name"
    for name in ("", "a b", "a.b", "../x", "a/b", "-rf", "_a", "é", "x" * 41, "*", "~", "con:", "a\\nb", "\\u202ea"):
        yield _case(f"name {name!r}", "toml", [f'[stages."{name}"]!', 'dataset = "pydocs"'], "", said)
    for name in (*RESERVED_NAMES, "PREV", "Best"):
        yield _case(f"reserved {name}", "toml", [f"[stages.{name}]!", 'dataset = "pydocs"'], f"stages.{name}", said)
    for name in ("a b", "", "-x", "x" * 41, "a/b"):
        lines = ["[stages.s]", 'dataset = "pydocs"', f'[datasets."{name}"]!', 'path = "a/b"']
        yield _case(f"dataset {name!r}", "toml", lines, "", "is no dataset name")


def _relation_cases():
    def stage(*lines: str) -> list[str]:
        return ["[stages.s]", *lines]

    mixed = 'datasets = ["pydocs", "wikitext"]'
    for weights in ("[1]", "[1, 2, 3]"):
        lines = stage(mixed, f"weights = {weights}!")
        yield _case(f"weights {weights}", "toml", lines, "stages.s.weights", "must be one for each dataset: 2, got")
    lines = stage('dataset = "pydocs"', "weights = [1, 2]!")
    yield _case("weights of one", "toml", lines, "stages.s.weights", "must be one for each dataset: 1, got 2")
    lines = stage(mixed, "weights = [1e6, 1e-3]!")
    yield _case("tiny weight", "toml", lines, "stages.s.weights[1]", "must be at least a millionth of all weights")
    yield _case("both", "toml", stage(mixed + "!", 'dataset = "pydocs"'), "stages.s.datasets", "stands beside dataset")
    lines = stage('datasets = ["pydocs",', '"pydocs"]!')
    yield _case("twice listed", "toml", lines, "stages.s.datasets[1]", "lists 'pydocs' a second time")
    for name, hint in (
        ("wikipdia", "did you mean wikipedia?"), ("tinystory", "did you mean tinystories?"),
        ("mine2", "did you mean mine?"), ("nosuch", "neither known"), ("wikipedia:", "did you mean wikipedia?"),
        ("wikitext:3", "did you mean wikitext?"), ("wikipedia:e/n", "did you mean wikipedia?"),
        ("pydocs:topics", "did you mean pydocs?"), ("imdb", "nor a hub name (owner/name)"), ("a/b/c", "neither known"),
    ):  # fmt: skip
        lines = ["[datasets.mine]", 'path = "a/b"', *stage(f'dataset = "{name}"!')]
        yield _case(f"unknown {name}", "toml", lines, "stages.s.dataset", hint)
    for name in ("./x", "/x/y.jsonl", "x.csv", "~/nothing-there", "a/b.parquet", "~nobody-here/x", "x" * 300 + ".txt"):
        lines = stage(f'dataset = "{name}"!')
        yield _case(f"no file {name}", "toml", lines, "stages.s.dataset", "no such file or folder")
    for columns, key, said in (
        ('text = "t"\nprompt = "p"', "prompt", "does not go together with text"),
        ('messages = "m"\ntext = "t"', "text", "does not go together with messages"),
        ('messages = "m"\ntruth = "t"', "truth", "does not go together with messages"),
        ('text = "t"\nsystem = "t"', "system", "does not go together with text"),
        ('prompt = "p"', "prompt", "needs truth beside it"),
        ('truth = "p"', "truth", "needs prompt beside it"),
        ('title = "p"', "title", "needs text beside it"),
        ('system = "p"', "system", "needs prompt and truth beside it"),
        ('prompt = "p"\ntruth = "p"\ntitle = "p"', "title", "does not go together with prompt"),
    ):
        lines = ["[datasets.d]", 'path = "a/b"', *columns.split("\n"), *stage('dataset = "d"')]
        number = next(number for number, line in enumerate(lines, 1) if line.startswith(f"{key} ="))
        yield Case(f"columns {columns}", "toml", "\n".join(lines), number, f"datasets.d.{key}", said)
    for key, value, said in (
        ("config", "topic", "must be topics or docstrings, got 'topic'"), ("split", "test", "must be train"),
        ("validation", "test", "is nothing that pydocs has"), ("revision", "v1", "is nothing that pydocs has"),
    ):  # fmt: skip
        lines = ["[datasets.d]", 'path = "pydocs"', f'{key} = "{value}"!', *stage('dataset = "d"')]
        yield _case(f"pydocs {key}", "toml", lines, f"datasets.d.{key}", said)


CASES = [
    *_option_cases(), *_stage_key_cases(), *_dataset_key_cases(), *_json_cases(), *_misplaced_cases(),
    *_unknown_cases(), *_missing_cases(), *_twice_cases(), *_name_cases(), *_relation_cases(),
]  # fmt: skip
