"""Running a model in the memory there is: what every part takes, the plans, the choice, and loading by a plan.

`sizes` and `plans` are arithmetic over file headers and import nothing heavy; `placing` needs torch.
"""
