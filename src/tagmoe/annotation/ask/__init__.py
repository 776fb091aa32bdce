"""Ask for tags: the prompt, the annotators, all rows of a store, and the ledger of uncommitted answers."""
