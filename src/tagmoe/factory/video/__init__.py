"""Pairs of frames from real videos: the camera moved, or the subject did, and nothing else."""
