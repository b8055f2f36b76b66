"""The command `sarwmix checkpoints`.

    sarwmix checkpoints verify runs/base

Nothing is written: a damaged checkpoint stays where it is, and a run continues from the one before it.
"""
