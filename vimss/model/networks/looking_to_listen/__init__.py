"""Looking to Listen after Ephrat et al. (2018): a player's stream and the spectrum of the mixture, joined in time.

config        LookingToListenConfig: its settings, its windows and its site, without torch
network       LookingToListen: the weights, and the forward pass step by step. Read this one first

config = LookingToListenConfig(context="motion", outputs="queries", site="bottleneck")
separator = Separator(config, labels=tuple(INSTRUMENTS), sample_rate=8000)
separator(torch.zeros(1, 1, 18432), torch.zeros(1, 2, 50, 64))     # 2 players, of 16384 samples each
"""

from vimss.model.networks.looking_to_listen.config import LookingToListenConfig

__all__ = ["LookingToListenConfig"]
