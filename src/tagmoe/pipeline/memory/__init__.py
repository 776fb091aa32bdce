"""Run a model in the memory that is available: sizes of the components, memory plans, and loading by a plan.

`sizes` and `plans` compute from file headers and import nothing heavy. `placing` needs torch.
"""
