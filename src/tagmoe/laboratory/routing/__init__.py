"""Experiments on routing: record cases, controls and interventions, and score the tags predicted from signatures."""
