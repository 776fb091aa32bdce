"""Experiments on TagWorld: compare arms of training (ablation), and change the routing to see its effect (routing)."""
