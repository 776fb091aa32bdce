"""The rules of the vocabulary as a file, and the annotator that needs no model: words, pixels, camera."""
