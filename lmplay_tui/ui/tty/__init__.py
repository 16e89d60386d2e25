"""The terminal, and every reach into Textual's insides: no module of `ui` outside this folder uses a private name.

`tests/ui/test_tty_fence.py` names the version of Textual that was looked at, and each private name with its form.
"""
