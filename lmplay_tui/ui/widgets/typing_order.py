"""Keys in the order in which they were typed, where many come at once: over a slow line they do."""

from textual import events
from textual.widget import Widget
from textual.widgets import Input


async def act_at_once(widget: Widget, event: events.Key) -> None:
    """What the widget itself binds the key to, from its `_on_key`.

    Textual has the app look for bindings once a key has risen to it; letters do not rise, so those that were typed
    behind an arrow key or backspace would be in the text before it moves or deletes.
    """
    for binding in widget._bindings.key_to_bindings.get(event.key, ()):
        if not binding.priority and await widget.app.run_action(binding.action, default_namespace=widget):
            event.stop()
            event.prevent_default()
            return


class TypedLine(Input):
    """A field of a dialog."""

    async def _on_key(self, event: events.Key) -> None:
        await act_at_once(self, event)
