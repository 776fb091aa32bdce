"""How good tags are: agreement, inverses, pixel evidence, label issues, gold sets, refining the rules."""
