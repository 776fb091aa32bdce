"""Analyse what the experts do (paper 4.5, Fig. 6): from routing traces to statistics and pages."""
