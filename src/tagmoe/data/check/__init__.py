"""What can be wrong with a record, a run over a store that finds it, and the page about it."""
