"""Fast paths of the model on a CPU; each equals its readable counterpart, which a test compares."""
