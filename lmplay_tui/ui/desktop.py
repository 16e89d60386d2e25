"""What a terminal may do outside its screen: a title, a notification on the desktop. Nothing where it would be garbage.

Over SSH only `TERM` and the multiplexer's variables tell what the terminal is.
"""

from collections.abc import Mapping

from lmplay_tui.text import one_line

# Terminals that read an operating system command (OSC) to its end whether or not they know it. The Linux console of
# older kernels, serial lines and GNU screen do not: they show its text.
_READ_COMMANDS = (
    "xterm", "tmux", "alacritty", "foot", "wezterm", "ghostty", "kitty", "rxvt-unicode", "st-", "konsole", "contour",
    "iterm", "mintty", "vte", "gnome",
)  # fmt: skip


def reads_commands(environ: Mapping[str, str]) -> bool:
    """Whether the terminal takes commands that it does not know without showing them."""
    return "TMUX" in environ or environ.get("TERM", "").startswith(_READ_COMMANDS)


def title_sequence(text: str, environ: Mapping[str, str]) -> str:
    """Sets the window's title; nothing where that could be shown as text."""
    return f"\x1b]2;{one_line(text, 100)}\x07" if reads_commands(environ) else ""


def notification(text: str, environ: Mapping[str, str]) -> str:
    """A notification on the desktop (OSC 9); nothing where that could be shown as text.

    tmux swallows OSC 9. It hands on what is wrapped as its pass-through where `allow-passthrough` is on, and drops it
    silently where not. The words before the text keep it from being read as one of OSC 9's numbered commands.
    """
    if not reads_commands(environ):
        return ""
    sequence = f"\x1b]9;lmplay-tui: {one_line(text, 200)}\x07"
    if "TMUX" in environ or environ.get("TERM", "").startswith("tmux"):
        doubled = sequence.replace("\x1b", "\x1b\x1b")
        return f"\x1bPtmux;{doubled}\x1b\\"
    return sequence
