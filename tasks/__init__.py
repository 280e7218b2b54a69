"""seqio's view of our mixtures: importing this package registers them; it needs TensorFlow.

No file is opened until a dataset is asked for: data are found under HYPERJAX_DATA, the vocabulary
is the one that HYPERJAX_VOCABULARY names.
"""

from tasks import c4, metaicl, natural_instructions, p3

__all__ = ['c4', 'metaicl', 'natural_instructions', 'p3']
