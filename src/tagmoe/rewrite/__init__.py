"""Rewrite an instruction at inference (section 3.2): ask for a better one, check it, else keep the user's own."""
