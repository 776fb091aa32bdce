"""Hierarchical task annotation (section 3.2): what an edit's tags are, who says so, and how good the answers are.

answer   an annotator's answer for one record, and its column in a store
ask/     who answers (a model, rules, TagWorld's truth) and all rows of a store
rules/   the versioned rules, and what words and pixels say without a model
quality/ two annotators side by side, gold sets, a new rule set against an old one
"""
