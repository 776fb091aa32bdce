"""Samples that are made: instructions, edits, judges and the choice among them, by a plan (paper 3.4)."""
