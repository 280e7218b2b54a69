"""The models that phi adapts and hypermodels read with."""
