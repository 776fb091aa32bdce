"""Benchmarks: cases from published files, in one normalised folder; what an editor is asked and what is right."""
