"""TagWorld as a laboratory: the arms of the paper's ablation (Table 4) and what they show, over seeds."""
