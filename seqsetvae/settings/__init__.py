"""Settings: how they are declared (declare, kinds), the groups that modes share, and how a call is resolved.

They are read here, once, and handed down as small frozen dataclasses; nothing here imports torch.
"""
