"""The paper's ablation (Table 4) on TagWorld: train its arms over seeds, measure and compare them."""
