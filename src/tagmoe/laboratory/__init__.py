"""Experiments on TagWorld: arms of training compared (ablation), and what routing does when it is changed (routing)."""
