"""Scoring an editor on TagWorld, and the report of it."""
