"""Hierarchical task annotation (paper 3.2): what an edit's tags are, who says so, and how good the answers are.

annotation      an annotator's answer for one record, and its column in a store
rule_set        the versioned rules (rules.yaml); prompt: the question that is made of them
annotators      a model, rules that need none (rule_annotator, instruction_words), TagWorld's truth
annotate        all rows of a store; ledger: answers that are not committed yet
evidence        what the pixels say (camera: another view), and where they contradict tags
agree           two annotators side by side: agreement, consistency, label_issues, bootstrap; agree_page, agree_tables
refine          a new rule set against a gold set (gold), adopted where nothing falls; propose: words for one
"""
