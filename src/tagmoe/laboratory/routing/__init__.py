"""Experiments on routing: cases recorded, controls, interventions, and how well tags are read from a signature."""
