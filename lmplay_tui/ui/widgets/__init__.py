"""Widgets: each draws data that it is given."""
