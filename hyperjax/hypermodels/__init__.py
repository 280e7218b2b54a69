"""Who writes phi: HyperT5 from a context, LearnedPhi from nothing but gradients."""
