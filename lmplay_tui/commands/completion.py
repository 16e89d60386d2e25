"""`lmplay-tui completion SHELL`: a script that completes commands, options and what may stand behind them.

It is made from the declarations, and then waits for no Python: runs are looked for by the shell itself.
"""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from lmplay_tui.command_line import COMMANDS, new_parser, parse_line
from lmplay_tui.errors import EXIT_OK

DESCRIPTION = """\
Print a script that completes commands, options, their values, plans and runs.

  bash   echo 'eval "$(lmplay-tui completion bash)"' >> ~/.bashrc
  zsh    echo 'eval "$(lmplay-tui completion zsh)"' >> ~/.zshrc      (below compinit)
  fish   lmplay-tui completion fish > ~/.config/fish/completions/lmplay-tui.fish"""
TUI = "lmplay-tui"
PROGRAMS = {"lmp_trainer": "train", "lmp_plotstats": "plot", "lmp_generator": "generate"}  # and the command each is
# What a shell finds by itself, by what a declaration calls a value. Of the rest nothing is known.
_FOUND = {
    "RUN": "@runs", "MODEL": "@runs", "[MODEL] [PROMPT]": "@runs", "LOCATION": "@runs @files", "FILE": "@files",
    "PATH": "@files", "DATA": "@files", "FILE:NAME": "@files", "DIR": "@dirs", "PLAN": "@plans @files",
}  # fmt: skip


@dataclass(frozen=True)
class Flag:
    """An option as a shell completes it. `values`: words, and @-words for what it finds; empty: it takes none."""

    name: str
    help: str
    values: str


@dataclass(frozen=True)
class CommandPlace:
    """What may be typed behind a command: "" is the program alone, "runs tag" an action."""

    name: str
    flags: tuple[Flag, ...]
    words: str


def main(arguments: Sequence[str], prog: str) -> int:
    """Print the script. Raises `UserError` for another shell."""
    line = parse_line(parser(prog), arguments)
    print(SCRIPTS[line.shell](places()))
    return EXIT_OK


def parser(prog: str) -> argparse.ArgumentParser:
    """The command line of `completion`."""
    made = new_parser(prog, DESCRIPTION)
    made.add_argument("shell", choices=tuple(SCRIPTS), metavar="SHELL", help=", ".join(SCRIPTS))
    return made


def places() -> list[CommandPlace]:
    """All that can be typed, by the declarations."""
    found = [_place("", _parser_of("train"), first=tuple(COMMANDS)), _place("train", _parser_of("train"))]
    for name in COMMANDS:
        actions = import_module("lmplay_tui.commands.runs").ACTIONS if name == "runs" else {}
        found.append(_place(name, _parser_of(name), first=tuple(actions)))
        found += [_place(f"{name} {word}", action.parser("")) for word, action in actions.items()]
    return found


def _parser_of(command: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = import_module(f"lmplay_tui.commands.{command}").parser("")
    return made


def _place(name: str, made: argparse.ArgumentParser, first: Sequence[str] = ()) -> CommandPlace:
    flags, words = [], list(first)
    for action in made._actions:
        values = _values(action)
        if action.option_strings:
            short = " ".join(str(action.help).replace("%%", "%").split())
            flags += [Flag(flag, short, values) for flag in action.option_strings if flag.startswith("--")]
        else:
            words += values.split()
    if name == "ctl":
        from lmplay_tui.run.control_files import PLAIN

        words += ["@runs", *PLAIN, "lr="]
    return CommandPlace(name, tuple(flags), " ".join(dict.fromkeys(word for word in words if word != "@none")))


def _values(action: argparse.Action) -> str:
    """What may stand behind an option, or as a word: `adamw adam`, `auto none @files`; `@none`: nothing is known."""
    if action.nargs == 0:
        return ""
    if action.choices is not None:
        return " ".join(map(str, action.choices))
    metavar = str(action.metavar or "")
    if metavar in _FOUND:
        found = _FOUND[metavar]
    else:  # `auto|none|FILE`
        parts = metavar.split("|") if "|" in metavar else []
        found = " ".join(_FOUND.get(part, part if part.islower() else "") for part in parts)
    from lmplay_tui.plan.builtin import shipped_plans

    return " ".join(found.replace("@plans", " ".join(shipped_plans())).split()) or "@none"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# Names of runs, by their folders here and in the output folder. A folder may be called anything, `$(rm x).run` too, and
# bash types what it is told: only what a run can be called (`plan/schema.py` `check_name`) is told.
_RUNS = (
    "command find . out_gpt -maxdepth 1 -name '*.run' -type d 2>/dev/null | "
    r"command sed -n 's|^.*/\([A-Za-z0-9][A-Za-z0-9_-]*\)\.run$|\1|p'"
)

# ---- bash and zsh: the same tables, and what each does with them

_TABLES = """\
# Completion of lmplay-tui in {shell}; made by: lmplay-tui completion {shell}

_lmplay_tui_runs() {{
    {runs}
}}

_lmplay_tui_place() {{  # which command a line is of: the program, its first word, its second
    case "$1" in
        {programs}
    esac
    case "$2 $3" in
        {actions}
    esac
    case "$2" in
        {commands}
    esac
}}

_lmplay_tui_behind() {{  # what may stand behind an option: place, option; nothing: it takes no value
    case "$1 $2" in
        {behind}
    esac
}}

_lmplay_tui_flags() {{
    case "$1" in
        {flags}
    esac
}}

_lmplay_tui_words() {{
    case "$1" in
        {words}
    esac
}}
"""

_BASH = """
_lmplay_tui() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} first= second= place values each
    local IFS=$' \\t\\n'
    COMPREPLY=()
    if [[ $cur == '=' ]]; then  # --option=value comes as three words
        cur=
    elif [[ $prev == '=' ]]; then
        prev=${COMP_WORDS[COMP_CWORD-2]}
    fi
    ((COMP_CWORD > 1)) && first=${COMP_WORDS[1]}
    ((COMP_CWORD > 2)) && second=${COMP_WORDS[2]}
    place=$(_lmplay_tui_place "${1##*/}" "$first" "$second")
    values=$(_lmplay_tui_behind "$place" "$prev")
    if [[ -z $values ]]; then
        if [[ $cur == -* ]]; then values=$(_lmplay_tui_flags "$place"); else values=$(_lmplay_tui_words "$place"); fi
    fi
    [[ $values == *@* && $values != @none ]] || compopt +o default 2>/dev/null
    while read -r each; do
        case $each in
            @none|'') ;;
            @runs)
                while IFS= read -r each; do
                    [[ $each == "$cur"* ]] && COMPREPLY+=("$each")
                done < <(_lmplay_tui_runs) ;;
            @files|@dirs)
                compopt -o filenames 2>/dev/null
                while IFS= read -r each; do
                    COMPREPLY+=("$each")
                done < <(if [[ $each == @dirs ]]; then compgen -d -- "$cur"; else compgen -f -- "$cur"; fi) ;;
            *) [[ $each == "$cur"* ]] && COMPREPLY+=("$each") ;;
        esac
    done < <(printf '%s\\n' "$values" | command sed 's/:.*//' | command tr ' ' '\\n')
}
complete -o default -F _lmplay_tui PROGRAMS"""

_ZSH = """
_lmplay_tui() {
    local cur=${words[CURRENT]} prev=${words[CURRENT-1]} first= second= place values each
    local -a plain described
    if [[ $cur == --*=* ]]; then
        prev=${cur%%=*}
        compset -P '*='
        cur=${cur#*=}
    fi
    (( CURRENT > 2 )) && first=${words[2]}
    (( CURRENT > 3 )) && second=${words[3]}
    place=$(_lmplay_tui_place "${words[1]:t}" "$first" "$second")
    values=$(_lmplay_tui_behind "$place" "$prev")
    if [[ -z $values && $cur == -* ]]; then
        described=(${(f)"$(_lmplay_tui_flags "$place")"})
        _describe -o option described
        return
    fi
    [[ -n $values ]] || values=$(_lmplay_tui_words "$place")
    for each in ${(s: :)values}; do
        case $each in
            @none) ;;
            @runs) plain+=(${(f)"$(_lmplay_tui_runs)"}) ;;
            @files) _files ;;
            @dirs) _files -/ ;;
            *) plain+=("$each") ;;
        esac
    done
    compadd -a plain || { [[ $values == *@runs* ]] && _files }
}
compdef _lmplay_tui PROGRAMS"""


def _case(rows: Sequence[tuple[str, str]]) -> str:
    return "\n        ".join(f"{_quoted(key)}) {answer} ;;" for key, answer in rows)


def _tables(shell: str, found: Sequence[CommandPlace]) -> str:
    def said(text: str) -> str:
        return f"printf '%s\\n' {_quoted(text)}"

    def flags(place: CommandPlace) -> str:  # a line each, as zsh describes them: a colon before the help
        return "\n".join(f"{flag.name}:{_first_clause(flag.help)}" for flag in place.flags)

    names = [place.name for place in found]
    behind: dict[str, list[str]] = {}
    for place in found:
        for flag in place.flags:
            if flag.values:
                behind.setdefault(flag.values, []).append(f"{place.name} {flag.name}")
    actions = [(name, f"echo {_quoted(name)}; return") for name in names if " " in name]
    return _TABLES.format(
        shell=shell,
        runs=_RUNS,
        programs=_case([(program, f"echo {place}; return") for program, place in PROGRAMS.items()]),
        actions=_case(actions),
        commands=_case([(name, f"echo {name}") for name in names if name in COMMANDS]),
        behind="\n        ".join(
            f"{'|'.join(map(_quoted, keys))}) echo {_quoted(values)} ;;" for values, keys in behind.items()
        ),
        flags=_case([(place.name, said(flags(place))) for place in found]),
        words=_case([(place.name, f"echo {_quoted(place.words)}") for place in found if place.words]),
    )


def _first_clause(text: str) -> str:
    """The beginning of a help, as short as a list beside a cursor needs it."""
    return re.split(r"[;,(\[]", text)[0].replace(":", " -").strip()[:60]


def _bash(found: Sequence[CommandPlace]) -> str:
    return _tables("bash", found) + _BASH.replace("PROGRAMS", " ".join((TUI, *PROGRAMS)))


def _zsh(found: Sequence[CommandPlace]) -> str:
    return _tables("zsh", found) + _ZSH.replace("PROGRAMS", " ".join((TUI, *PROGRAMS)))


# ---- fish

_FISH = """\
# Completion of lmplay-tui in fish; made by: lmplay-tui completion fish

function __lmplay_tui_runs
    RUNS
end

function __lmplay_tui_at  # whether the line is of this place
    set -l typed (commandline -opc)
    set -l place ''
    if contains -- "$typed[2]" COMMANDS
        set place $typed[2]
        contains -- "$typed[2] $typed[3]" ACTIONS
        and set place "$typed[2] $typed[3]"
    end
    test "$place" = "$argv[1]"
end
"""


def _fish(found: Sequence[CommandPlace]) -> str:
    actions = " ".join(_quoted(place.name) for place in found if " " in place.name)
    lines = [_FISH.replace("RUNS", _RUNS).replace("COMMANDS", " ".join(COMMANDS)).replace("ACTIONS", actions)]
    programs = {place: [program] for program, place in PROGRAMS.items()}
    for place in found:
        at = [] if place.name == "train" else [f"{TUI} -n {_quoted(f'__lmplay_tui_at {_fish_word(place.name)}')}"]
        for begin in (*at, *programs.get(place.name, [])):
            lines += _fish_lines(f"complete -c {begin}", place)
    return "\n".join(lines)


def _fish_word(name: str) -> str:
    return f'"{name}"'


def _fish_lines(begin: str, place: CommandPlace) -> list[str]:
    lines = [f"{begin} {_fish_values(place.words)}"] if place.words else []
    for flag in place.flags:
        takes = f" -r {_fish_values(flag.values)}" if flag.values else ""
        lines.append(f"{begin} -l {flag.name[2:]} -d {_quoted(_first_clause(flag.help))}{takes}")
    return lines


def _fish_values(values: str) -> str:
    """`-f` keeps files out; `-F` lets them in."""
    words = values.split()
    plain = [word for word in words if not word.startswith("@")]
    plain += ["(__lmplay_tui_runs)"] if "@runs" in words else []
    plain += ["(__fish_complete_directories)"] if "@dirs" in words else []
    files = "-F" if {"@files", "@runs"} & set(words) else "-f"
    return f"{files} -a {_quoted(' '.join(plain))}" if plain else files


SCRIPTS = {"bash": _bash, "zsh": _zsh, "fish": _fish}
