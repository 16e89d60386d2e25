"""Every option of a run: what is declared (`declared`), how values are checked (`values`), the command line."""

from lmplay_tui.options.command_line import (
    add_options,
    command_words,
    given_options,
    new_parser,
    parse_line,
)
from lmplay_tui.options.declared import (
    OnResume,
    TrainOptions,
    Where,
    default,
    flag,
    hosting_options,
    names,
    on_resume,
    recorded,
    resolve,
    stage_names,
    train_names,
    where,
)
from lmplay_tui.options.values import check, home_path, nearest, sentence, shown_value

__all__ = [
    "OnResume", "TrainOptions", "Where", "add_options", "check", "command_words", "default", "flag", "given_options",
    "home_path", "hosting_options", "names", "nearest", "new_parser", "on_resume", "parse_line", "recorded", "resolve",
    "sentence", "shown_value", "stage_names", "train_names", "where",
]  # fmt: skip
