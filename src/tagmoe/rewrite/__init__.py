"""Better words for an instruction at inference (section 3.2): ask, check the answer, fall back to what was said."""
