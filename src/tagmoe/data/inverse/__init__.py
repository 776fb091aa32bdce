"""Inverse edits: from the target back to the source, with an instruction that says so ("remove what was added")."""
