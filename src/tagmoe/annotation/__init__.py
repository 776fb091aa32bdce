"""Hierarchical task annotation (section 3.2): give edits their tags, and measure how good the tags are.

answer   the answer of an annotator for one record, and its column in a store
ask/     the annotators (a model, rules, TagWorld's true tags), and asking them for all rows of a store
rules/   the rule set for a model, and the annotator that needs no model: words of the instruction, and pixels
quality/ agreement of two annotators, gold sets, and the trial of a new rule set against the old one
"""
