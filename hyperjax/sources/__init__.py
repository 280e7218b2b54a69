"""Readers of data sets as their authors publish them; nothing here needs TensorFlow."""
