"""Asking for tags: the prompt, who answers, the rows of a store, and answers that are not committed yet."""
