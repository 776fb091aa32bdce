"""Specialists: makers that do one thing, without instructions of a model (paper 3.4). One file is one specialist."""
