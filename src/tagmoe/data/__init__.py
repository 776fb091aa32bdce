"""Training data (paper section 3.4): one store, the sources it is filled from, and the exact order it is read in."""
