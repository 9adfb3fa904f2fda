"""Sections of the reports: each module makes the HTML of one from plain facts. All text from data goes through `text` or `bdi`."""
