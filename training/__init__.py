"""The shared training package: methods, models, data and the loop.

Importing ``training`` alone costs nothing: only the modules that compute import torch.
"""
