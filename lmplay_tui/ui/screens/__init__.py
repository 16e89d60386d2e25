"""Screens: they place widgets, hand data to them and turn what they ask for into commands."""
