"""The terminal, and every reach into Textual's insides: no other module of `ui` uses a private name of Textual's.

`tests/ui/test_tty_fence.py` names the version of Textual that was looked at, and each private name with its form;
`tests/test_private_names.py` names those of other libraries, wherever they are used.
"""
