"""Checkpoints as bytes, without torch: shards, value types, names and layouts, upcycling, the authors' release."""
