"""Inverse edits: what was added is removed again, with a text that says so."""
