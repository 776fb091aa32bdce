"""Metrics: a case and an output give values. None needs weights; each knows cases, and no benchmark and no editor."""
